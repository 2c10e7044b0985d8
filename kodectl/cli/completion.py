"""Shell completion: three scripts, and the answer to what they ask.

A script calls `_KODECTL_COMPLETE=1 kodectl WORD... INCOMPLETE` and gets lines of `type TAB value TAB help`; type is plain,
file or dir. The words go as arguments, not through a variable, so that no shell's quoting is taken apart again; and
not in click's format, which is another for each shell and version.
"""

from __future__ import annotations

import sys

import click

from kodectl.cli.command import COMPLETION_VARIABLE, PROGRAM, command, examples
from kodectl.cli.output import Outcome

BASH = """\
# bash completion for kodectl; made by `kodectl completion bash`.
_kodectl() {
    local IFS=$'\\t' current=${COMP_WORDS[COMP_CWORD]} kind value help
    COMPREPLY=()
    while read -r kind value help; do
        case $kind in
        plain) COMPREPLY+=("$value") ;;
        file | dir)
            compopt -o filenames
            local IFS=$'\\n'
            COMPREPLY+=($(compgen -"${kind:0:1}" -- "$current"))
            IFS=$'\\t'
            ;;
        esac
    done < <(@VARIABLE@=1 "$1" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o nosort -F _kodectl kodectl
"""

ZSH = """\
#compdef kodectl
# zsh completion for kodectl; made by `kodectl completion zsh`.
_kodectl() {
    local kind value help
    local -a described
    while IFS=$'\\t' read -r kind value help; do
        case $kind in
        plain) described+=("${value//:/\\\\:}${help:+:$help}") ;;
        file) _files ;;
        dir) _files -/ ;;
        esac
    done < <(@VARIABLE@=1 "${words[1]}" "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( $#described )) && _describe -V kodectl described
}
if [[ $funcstack[1] == _kodectl ]]; then
    _kodectl "$@"
else
    compdef _kodectl kodectl
fi
"""

FISH = """\
# fish completion for kodectl; made by `kodectl completion fish`.
function _kodectl
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    @VARIABLE@=1 $words[1] $words[2..] "$current" 2>/dev/null | while read -d \\t -l kind value help
        switch $kind
            case plain
                printf '%s\\t%s\\n' $value $help
            case file
                __fish_complete_path "$current"
            case dir
                __fish_complete_directories "$current"
        end
    end
end
complete --no-files --command kodectl --arguments '(_kodectl)'
"""

SCRIPTS = {
    shell: text.replace("@VARIABLE@", COMPLETION_VARIABLE)
    for shell, text in (("bash", BASH), ("zsh", ZSH), ("fish", FISH))
}
FILES = {"bash": "kodectl.bash", "zsh": "_kodectl", "fish": "kodectl.fish"}
"""Where each shell looks for it by name."""


@command(
    "completion",
    epilog=examples(
        "source <(kodectl completion bash)",
        "kodectl completion zsh > ~/.zfunc/_kodectl",
        "kodectl completion fish > ~/.config/fish/completions/kodectl.fish",
    ),
)
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
def completion(shell: str) -> Outcome:
    """Print the completion script of a shell."""
    return Outcome({"shell": shell, "script": SCRIPTS[shell]}, SCRIPTS[shell].rstrip("\n"))


def complete(root: click.Command, words: list[str]) -> int:
    """Prints what could stand for the last of `words`."""
    from click.shell_completion import ShellComplete

    *before, incomplete = words or [""]
    found = ShellComplete(root, {}, PROGRAM, COMPLETION_VARIABLE).get_completions(before, incomplete)
    for item in found:
        summary = (item.help or "").partition("\n")[0]
        sys.stdout.write(f"{item.type}\t{item.value}\t{summary}\n")
    return 0
