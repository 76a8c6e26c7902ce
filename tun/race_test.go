//go:build race

package tun

// raceEnabled: under the race detector sync.Pool forgets at random.
const raceEnabled = true
