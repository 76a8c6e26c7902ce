#compdef tcpbox
# zsh completion for tcpbox: source it after compinit, or put it into a
# directory of $fpath as _tcpbox.
#
# tcpbox itself says what can stand at the cursor ("tcpbox complete").

_tcpbox() {
	local program=${(Q)words[1]} line
	local -a answer options
	(( $+commands[$program] )) || [[ -x $program ]] || program=tcpbox
	answer=("${(@f)$("$program" complete -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
	case $answer[1] in
	files)
		[[ $PREFIX == -*=* ]] && compset -P '*='
		_files
		;;
	dirs)
		[[ $PREFIX == -*=* ]] && compset -P '*='
		_files -/
		;;
	command\ *)
		local from=${answer[1]#command }
		shift $from words
		(( CURRENT -= from ))
		_normal
		;;
	words|nospace)
		local -a values shown
		for line in "${(@)answer[2,-1]}"; do
			[[ -n $line ]] || continue
			values+=("${line%%$'\t'*}")
			shown+=("${line%%$'\t'*}${${line#*$'\t'}:+  -- ${line#*$'\t'}}")
		done
		[[ $answer[1] == nospace ]] && options=(-S '')
		compadd "${(@)options}" -l -d shown -a values
		;;
	esac
}

if [[ $funcstack[1] == _tcpbox ]]; then
	_tcpbox "$@"
else
	compdef _tcpbox tcpbox
fi
