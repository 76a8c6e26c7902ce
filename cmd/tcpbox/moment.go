package main

import (
	"time"

	"github.com/urfave/cli/v2"
)

// parseMoment reads a flag that is a moment: RFC 3339, a time of today, or how long
// ago. Without the flag it returns the zero Time.
func parseMoment(c *cli.Context, flag string, now time.Time) (time.Time, error) {
	text := c.String(flag)
	if text == "" && !c.IsSet(flag) {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), now.Location()), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, usagef("it is a time, as 15:04:05 or 2026-01-02T15:04:05Z, or how long ago, as 10m", "--%s %q: not a moment", flag, text)
}
