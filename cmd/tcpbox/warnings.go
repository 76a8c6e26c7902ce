package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"unicode/utf8"
)

// warnings is a slog.Handler that tells the person at the terminal what is worth
// a warning: "tcpbox: warning: message (key value, key value)".
type warnings struct{ say *speaker }

// Enabled implements slog.Handler.
func (warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle implements slog.Handler.
func (h warnings) Handle(_ context.Context, r slog.Record) error {
	var attrs []string
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "sandbox" { // there is but one
			attrs = append(attrs, a.Key+" "+printable(a.Value.String()))
		}
		return true
	})
	text := r.Message
	if len(attrs) > 0 {
		text = fmt.Sprintf("%s (%s)", text, strings.Join(attrs, ", "))
	}
	h.say.warn(text)
	return nil
}

// WithAttrs implements slog.Handler; nothing in tcpbox uses it.
func (h warnings) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler; nothing in tcpbox uses it.
func (h warnings) WithGroup(string) slog.Handler { return h }

// printable quotes text that holds anything a terminal might act on.
func printable(s string) string {
	if !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}
