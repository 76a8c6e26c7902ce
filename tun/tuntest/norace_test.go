//go:build !race

package tuntest_test

const raceEnabled = false
