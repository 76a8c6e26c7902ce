package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"tcpbox"
	"tcpbox/stack/statelog"
)

// CountsAnswer is the answer to GET /v1/stat.
type CountsAnswer struct {
	V int `json:"v"`
	tcpbox.Counts
}

func (s *Server) stat(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, CountsAnswer{Version, s.box.Counts()})
}

// logQuery reads which part of the log is asked for: ?rows=1&ended=1&last=N&follow=1.
func logQuery(q url.Values) (opt tcpbox.FollowOptions, err error) {
	flag := func(name string) bool {
		value := q.Get(name)
		if value != "" && value != "0" && value != "1" {
			err = fmt.Errorf("%s=%.80q: it is 0 or 1", name, value)
		}
		return value == "1"
	}
	for name := range q {
		switch name {
		case "rows", "ended", "last", "follow":
		default:
			return opt, fmt.Errorf("%.80q is nothing that can be asked for", name)
		}
	}
	opt.Rows, opt.Ended, opt.Past = flag("rows"), flag("ended"), !flag("follow")
	if text := q.Get("last"); text != "" && err == nil {
		if opt.Last, err = strconv.Atoi(text); err != nil || opt.Last < 0 || opt.Last > tcpbox.MaxLast {
			err = fmt.Errorf("last=%.80q: it is a number from 0 to %d", text, tcpbox.MaxLast)
		}
	}
	return opt, err
}

// logBuffer is how many bytes are sent at once, unless there is nothing to wait for.
const logBuffer = 32 << 10

// logStream sends records as lines of the log, until the sandbox or the client has
// ended.
func (s *Server) logStream(w http.ResponseWriter, r *http.Request) {
	opt, err := logQuery(r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, err, "the requests are in docs/control-api.md")
		return
	}
	f, err := s.box.Follow(opt)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err, fmt.Sprintf("there may be %d; end one of them", tcpbox.MaxFollowers))
		return
	}
	defer f.Close()
	s.streams.Add(1)
	defer s.streams.Add(-1)
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Time{}) // that there is nothing more to read is no end
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	_ = conn.Flush() // it has begun
	out := bufio.NewWriterSize(w, logBuffer)
	var line []byte
	for {
		if !f.Waiting() {
			if out.Flush() != nil || conn.Flush() != nil {
				return
			}
		}
		rec, err := f.Next(r.Context())
		if err != nil {
			break
		}
		line = statelog.AppendJSON(line[:0], rec)
		if _, err := out.Write(line); err != nil {
			return
		}
	}
	_ = out.Flush()
}

// streamEndTime is how long the end of a sandbox waits for those who follow its log
// to get the last of it.
const streamEndTime = time.Second

// endStreams waits for the streams, which end with the sandbox.
func (s *Server) endStreams() {
	for end := time.Now().Add(streamEndTime); s.streams.Load() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// Stat returns the numbers of the sandbox.
func (c *Client) Stat(ctx context.Context) (tcpbox.Counts, error) {
	var a CountsAnswer
	err := c.do(ctx, requestTimeout, http.MethodGet, "stat", nil, &a)
	return a.Counts, err
}

// Log returns records of the log, as lines that a statelog.Reader reads. Whoever
// calls it closes it. io.EOF says that all were sent that were asked for: with
// follow, that the sandbox has ended.
func (c *Client) Log(ctx context.Context, opt tcpbox.FollowOptions) (io.ReadCloser, error) {
	q := url.Values{}
	for name, is := range map[string]bool{"rows": opt.Rows, "ended": opt.Ended, "follow": !opt.Past} {
		if is {
			q.Set(name, "1")
		}
	}
	if opt.Last > 0 {
		q.Set("last", strconv.Itoa(opt.Last))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sandbox/v1/log?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.lost(err)
	}
	c.answered.Store(true)
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, failure(resp)
	}
	return &logBody{resp.Body, c}, nil
}

// logBody says of a stream that breaks why.
type logBody struct {
	io.ReadCloser
	client *Client
}

func (b *logBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.client.lost(err)
	}
	return n, err
}
