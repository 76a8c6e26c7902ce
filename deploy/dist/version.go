package main

import (
	"regexp"
	"strings"
	"time"
)

var (
	released = regexp.MustCompile(`^v?\d+\.\d`)
	since    = regexp.MustCompile(`-(\d+)-(g[0-9a-f]+)`) // git describe: so many commits after the tag
)

// packageVersion writes a version so that dpkg and rpm sort it: a pre-release
// before its release, what was built after a tag behind it, and what has no tag
// before everything, by its time.
func packageVersion(version string, at time.Time) string {
	v := version
	if !released.MatchString(v) {
		v = "0.0.0~" + at.Format("20060102150405") + "." + v
	} else {
		v = since.ReplaceAllString(strings.TrimPrefix(v, "v"), "+$1.$2")
		if number, pre, ok := strings.Cut(v, "-"); ok && !strings.HasPrefix(pre, "dirty") {
			v = number + "~" + pre
		}
	}
	return strings.ReplaceAll(v, "-", ".")
}
