# fish completion for tcpbox: source it, or put it into
# ~/.config/fish/completions/tcpbox.fish.
#
# tcpbox itself says what can stand at the cursor ("tcpbox complete").

function __tcpbox_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l answer (tcpbox complete -- $words[2..-1] "$current" 2>/dev/null)
    switch "$answer[1]"
        case files
            __fish_complete_path (string replace -r -- '^-[^=]*=' '' "$current")
        case dirs
            __fish_complete_directories (string replace -r -- '^-[^=]*=' '' "$current")
        case 'command *'
            set -l from (math (string replace 'command ' '' -- $answer[1]) + 1)
            set -l line
            if test $from -le (count $words)
                set line (string escape -- $words[$from..-1])
            end
            complete -C (string join ' ' -- $line "$current")
        case words nospace
            string join \n -- $answer[2..-1]
    end
end

complete -c tcpbox -f -a '(__tcpbox_complete)'
