# bash completion for tcpbox: source it, or put it into
# /usr/share/bash-completion/completions/tcpbox.
#
# tcpbox itself says what can stand at the cursor ("tcpbox complete").

_tcpbox() {
	local LC_ALL=C IFS=$'\n' program=$1
	type -P -- "$program" >/dev/null || program=tcpbox
	local -a answer
	mapfile -t answer < <("$program" complete --line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
	COMPREPLY=()
	case ${answer[0]-} in
	files) compopt -o default ;;
	dirs) compopt -o dirnames -o filenames ;;
	command\ *) _tcpbox_command "${answer[0]#command }" ;;
	nospace | words)
		[ "${answer[0]}" = words ] || compopt -o nospace
		# bash completes what stands behind the last = or : of the word.
		local typed=${COMP_LINE:0:COMP_POINT} at=${COMP_WORDS[COMP_CWORD]} word
		typed=${typed##*[[:space:]]}
		case $at in
		= | :) at= ;;
		esac
		typed=${typed%"$at"}
		typed=${typed%@} # which it lets stand, though it parts words there, too
		for word in "${answer[@]:1}"; do
			word=${word%%$'\t'*}
			COMPREPLY+=("${word#"$typed"}")
		done
		;;
	esac
}

# _tcpbox_command completes the command line of another program, which begins
# at a byte of this one.
_tcpbox_command() {
	local begin=$1 at=0 i rest=$COMP_LINE blank
	for ((i = 0; i < ${#COMP_WORDS[@]}; i++)); do
		blank=${rest%%[![:space:]]*}
		rest=${rest#"$blank"}
		at=$((at + ${#blank}))
		[ "$at" -lt "$begin" ] || break
		at=$((at + ${#COMP_WORDS[i]}))
		rest=${rest:${#COMP_WORDS[i]}}
	done
	unset IFS
	if declare -F _comp_command_offset >/dev/null; then
		_comp_command_offset "$i"
	elif declare -F _command_offset >/dev/null; then
		_command_offset "$i"
	elif [ "$i" = "$COMP_CWORD" ]; then
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -A command -- "${COMP_WORDS[COMP_CWORD]}")
	else
		compopt -o default
	fi
}

complete -F _tcpbox tcpbox
