# bash completion for kodectl; made by `kodectl completion bash`.
_kodectl() {
    local IFS=$'\t' current=${COMP_WORDS[COMP_CWORD]} kind value help
    COMPREPLY=()
    while read -r kind value help; do
        case $kind in
        plain) COMPREPLY+=("$value") ;;
        file | dir)
            compopt -o filenames
            local IFS=$'\n'
            COMPREPLY+=($(compgen -"${kind:0:1}" -- "$current"))
            IFS=$'\t'
            ;;
        esac
    done < <(_KODECTL_COMPLETE=1 "$1" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o nosort -F _kodectl kodectl
