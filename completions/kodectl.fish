# fish completion for kodectl; made by `kodectl completion fish`.
function _kodectl
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    _KODECTL_COMPLETE=1 $words[1] $words[2..] "$current" 2>/dev/null | while read -d \t -l kind value help
        switch $kind
            case plain
                printf '%s\t%s\n' $value $help
            case file
                __fish_complete_path "$current"
            case dir
                __fish_complete_directories "$current"
        end
    end
end
complete --no-files --command kodectl --arguments '(_kodectl)'
