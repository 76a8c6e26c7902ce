package wire

// Tracer keeps the headers of connections. It keeps none yet.
type Tracer struct{}

func (t *Tracer) add(*Segment) {}
