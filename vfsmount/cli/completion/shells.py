"""What bash, zsh and fish run, and how they tell us the line and take the answer.

The scripts are click's, changed where names of files are concerned: bash breaks words at colons, and all
three have to quote names with spaces, in the way the word was begun. Each line of an answer is a kind and a
value; the kinds are those of `words`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from click import Option, Parameter
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    _resolve_context,
    _resolve_incomplete,
    split_arg_string,
)

VARIABLE = "_VFSMOUNT_COMPLETE"
PROGRAM = "vfsmount"
OURS = frozenset({"plain", "path"})  # kinds whose values we know; the shell looks for the others itself

_BASH = """\
%(complete_func)s() {
    local line value
    COMPREPLY=()
    while IFS= read -r line; do
        value=${line#*,}
        case ${line%%%%,*} in
            plain) COMPREPLY+=("$value") ;;
            path) COMPREPLY+=("$value"); compopt -o filenames ;;
            dir) compopt -o filenames -o plusdirs ;;
            file) compopt -o filenames -o default ;;
            nospace) compopt -o nospace ;;
        esac
    done < <(COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "${1/#\\~\\//$HOME/}" 2>/dev/null </dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local line kind value help
    local -a plain described names open
    local typed="${(j: :)words[1,CURRENT-1]} $QIPREFIX$IPREFIX$PREFIX"

    [[ $PREFIX == --*=* ]] && compset -P '*='
    for line in "${(@f)$(COMP_WORDS=$typed %(complete_var)s=zsh_complete \\
        ${(Q)~words[1]} 2>/dev/null </dev/null)}"; do
        kind=${line%%%%,*} value=${line#*,} help=
        case $kind in
            plain)
                help=${value#*$'\\t'} value=${value%%%%$'\\t'*}
                if [[ -n $help ]]; then described+=("${value//:/\\\\:}:$help"); else plain+=("$value"); fi ;;
            path) case $value in */|*:) open+=("$value") ;; *) names+=("$value") ;; esac ;;
            dir) _path_files -/ ;;
            file) _path_files ;;
        esac
    done
    [[ -n $described ]] && _describe -V commands described
    [[ -n $plain ]] && compadd -V words -a plain
    [[ -n $names ]] && compadd -V names -a names
    [[ -n $open ]] && compadd -V names -S '' -a open
    return 0
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    set -l program (commandline -opc)[1]
    for line in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp | string collect) \\
            $program 2>/dev/null </dev/null)
        set -l found (string split -m 1 , -- $line)
        switch $found[1]
            case plain path
                printf '%%s\\n' $found[2]
            case dir
                __fish_complete_directories (commandline -ct)
            case file
                __fish_complete_path (commandline -ct)
        end
    end
end

complete --no-files --keep-order --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


@dataclass(frozen=True, slots=True)
class Typed:
    """A command line up to the cursor.

    Attributes:
        words: the whole words, unquoted, the program's name first.
        raw: the last one, as it is typed; "" after a space.
        last: the same, unquoted.
        quote: the quote that is open at its end, or "".
    """

    words: list[str]
    raw: str
    last: str
    quote: str


def read_line(line: str) -> Typed:
    """Take a line apart as shells do, as far as words and quotes go."""
    start, quote, at = 0, "", 0
    while at < len(line):
        char = line[at]
        if char == "\\" and quote != "'":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            start = at + 1
        at += 1
    raw = line[start:]
    return Typed(split_arg_string(line[:start]), raw, unquoted(raw), quote)


def unquoted(raw: str) -> str:
    """A word that may end in the middle of quotes, without its quoting."""
    return "".join(split_arg_string(raw))


def quoted(text: str, quote: str) -> str:
    """Text as it stands in a word, behind an open quote, which is not closed."""
    if quote == "'":
        return text.replace("'", "'\\''")
    special = '$`"\\' if quote else " \t!\"#$&'()*;<>?[\\]^`{|}~"
    return "".join(f"\\{char}" if char in special else char for char in text)


def replaced_from(typed: Typed, breaks: str) -> int:
    """How many characters of the last word, unquoted, bash leaves as they are.

    What it replaces begins behind the last character that breaks words, or behind an open quote.
    """
    raw, at, cut = typed.raw, 0, 0
    while at < len(raw):
        if raw[at] == "\\":
            at += 1
        elif raw[at] in "'\"":
            end = raw.find(raw[at], at + 1)
            if end < 0:
                cut = at  # the quote itself says nothing when it is unquoted
                break
            at = end
        elif raw[at] in breaks:
            cut = at + 1
        at += 1
    return len(unquoted(raw[:cut]))


def _takes_value(param: Parameter, word: str) -> bool:
    return isinstance(param, Option) and word in param.opts and not (param.is_flag or param.count)


class _Shell(ShellComplete):
    """Reads the whole line, and keeps what stands before the value of an option ``--name=value``."""

    typed = Typed([], "", "", "")
    environ: Mapping[str, str] = os.environ

    def get_completion_args(self) -> tuple[list[str], str]:
        self.typed = read_line(self.environ["COMP_WORDS"])
        return self.typed.words[1:], self.typed.last

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        # click stops reading at an option that waits for its value, and forgets what it has read by then.
        ctx = _resolve_context(self.cli, self.ctx_args, self.prog_name, args)
        if args and any(_takes_value(param, args[-1]) for param in ctx.command.get_params(ctx)):
            ctx = _resolve_context(self.cli, self.ctx_args, self.prog_name, [*args, incomplete])
        what, rest = _resolve_incomplete(ctx, args, incomplete)
        return what.shell_complete(ctx, rest)

    def before_value(self) -> str:
        name, equals, _ = self.typed.last.partition("=")
        return name + equals if equals and name.startswith("--") else ""

    def source(self) -> str:
        return ShellComplete.source(self)  # bash is not started to look at its version


class Bash(_Shell, BashComplete):
    """Bash 4.4 and later."""

    source_template = _BASH
    quotes = False

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        found = super().get_completions(args, incomplete)
        # Bash quotes what it takes for names of files, all but these.
        self.quotes = any(item.type == "path" and set("$`") & set(item.value) for item in found)
        return found

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type not in OURS:
            return f"{item.type},"
        breaks = self.environ.get("COMP_WORDBREAKS", "")
        whole = self.before_value() + item.value
        value = whole[replaced_from(self.typed, breaks) :]
        end = "\nnospace," if item.type == "path" and item.value.endswith(("/", ":")) else ""
        return f"plain,{quoted(value, self.typed.quote)}{end}" if self.quotes else f"{item.type},{value}{end}"


class Zsh(_Shell, ZshComplete):
    """Zsh 5."""

    source_template = _ZSH

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type not in OURS:
            return f"{item.type},"
        help_ = "\t" + " ".join((item.help or "").split()) if item.type == "plain" else ""
        return f"{item.type},{item.value}{help_}"


class Fish(_Shell, FishComplete):
    """Fish 3."""

    source_template = _FISH

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type not in OURS:
            return f"{item.type},"
        help_ = "\t" + " ".join(item.help.split()) if item.help else ""
        return f"{item.type},{self.before_value()}{item.value}{help_}"


SHELLS: dict[str, type[_Shell]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}
