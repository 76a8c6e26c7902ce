package statelog

import (
	"fmt"
	"time"

	"tcpbox/stack/tcpstate"
)

// appendChange appends the fields of a change.
func appendChange(b []byte, c *tcpstate.Change) []byte {
	if c.Leg != 0 {
		b = append(b, `"leg":"`...)
		b = append(b, c.Leg.String()...)
		b = append(b, `",`...)
	}
	b = append(b, `"key":`...)
	b = appendString(b, c.Key)
	if c.From != "" {
		b = append(b, `,"from":`...)
		b = appendString(b, c.From)
	}
	b = append(b, `,"to":`...)
	return appendString(b, c.To)
}

// changeJSON is a change as it is decoded; nil is a field that is not there.
type changeJSON struct {
	Leg  *tcpstate.Leg `json:"leg"`
	Key  *string       `json:"key"`
	From *string       `json:"from"`
	To   *string       `json:"to"`
}

func (j *changeJSON) change(at time.Time) (*tcpstate.Change, error) {
	switch {
	case j.Key == nil || *j.Key == "":
		return nil, fmt.Errorf("of \"set\" %w", missing("key"))
	case j.To == nil:
		return nil, fmt.Errorf("of \"set\" %w", missing("to"))
	}
	return &tcpstate.Change{Time: at, Leg: value(j.Leg), Key: *j.Key, From: value(j.From), To: *j.To}, nil
}
