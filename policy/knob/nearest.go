package knob

import (
	"strings"

	"tcpbox/policy/spell"
	"tcpbox/stack/tcpstate"
)

// nearest returns the key, with a leg in front if name seems to have one, that
// takes the fewest changes of a letter to get from name; "" if none is near.
func nearest(name string) string {
	if len(name) > 64 {
		return "" // no spelling of a key, and not worth the time
	}
	// As from the kernel's names: tcp_tw_reuse is time-wait.reuse here.
	folded := strings.NewReplacer("_", "-", "tw-", "time-wait.", "tw_", "time-wait.").Replace(strings.ToLower(name))
	var candidates []string
	for _, key := range keys() {
		candidates = append(candidates, key)
		for _, leg := range tcpstate.Legs() {
			candidates = append(candidates, leg.String()+"."+key)
		}
	}
	return spell.Nearest(folded, candidates, len(folded)/3+1)
}
