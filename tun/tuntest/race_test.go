//go:build race

package tuntest_test

// raceEnabled: under the race detector sync.Pool forgets at random.
const raceEnabled = true
