"""``fathom completion``: the script that makes a shell complete the words of ``fathom``."""

from collections.abc import Sequence

from research.config.suggestions import format_suggestion

# Each script calls ``fathom complete``, which prints one candidate a line: WORD, tab, MEANING.
BASH = """\
_fathom() {
  local line=${COMP_LINE:0:COMP_POINT}
  local current=${line##*[[:space:]]}
  local prefix=""
  # Bash takes = and : for the end of a word.
  if [[ $current == *[=:]* ]]; then
    prefix=${current%"${current##*[=:]}"}
  fi
  local word
  COMPREPLY=()
  while IFS=$'\\t' read -r word _; do
    COMPREPLY+=("${word#"$prefix"}")
  done < <(fathom complete "$line" 2>/dev/null)
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
    compopt -o nospace
  fi
}
complete -o bashdefault -F _fathom fathom
"""
ZSH = """\
#compdef fathom
_fathom() {
  local -a candidates meanings
  local word meaning
  while IFS=$'\\t' read -r word meaning; do
    candidates+=("$word")
    meanings+=("${(r:28:)word} $meaning")
  done < <(fathom complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)
  if [[ ${#candidates} -eq 0 ]]; then
    _files
  else
    compadd -l -S '' -d meanings -a candidates
  fi
}
if [[ $funcstack[1] == _fathom ]]; then _fathom "$@"; else compdef _fathom fathom; fi
"""
FISH = """\
function __fathom_complete
  fathom complete (commandline -cp) 2>/dev/null
end
complete -c fathom -f -a '(__fathom_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def main(words: Sequence[str]) -> int:
    """Prints the script for a shell; returns the exit code.

    Raises:
        ValueError: no shell is named, or another one.
    """
    valid = ", ".join(SCRIPTS)
    if len(words) != 1:
        raise ValueError(
            f"completion for which shell? one of {valid}; for bash, "
            'eval "$(fathom completion bash)" in ~/.bashrc switches it on'
        )
    (shell,) = words
    if shell not in SCRIPTS:
        raise ValueError(
            f"there is no completion for {shell}{format_suggestion(shell, SCRIPTS)} "
            f"(valid: {valid})"
        )
    print(SCRIPTS[shell], end="")
    return 0
