package knob

import (
	"slices"
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

// akin are up to three keys that have a part of name in them: of backlog, syn-backlog
// and accept-backlog.
func akin(name string) []string {
	if len(name) > 64 {
		return nil
	}
	parts := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return strings.ContainsRune("._-", r) })
	var found []string
	for _, key := range keys() {
		has := func(part string) bool { return len(part) > 2 && strings.Contains(key, part) }
		if len(found) < 3 && slices.ContainsFunc(parts, has) {
			found = append(found, key)
		}
	}
	return found
}
