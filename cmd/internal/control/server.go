package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a request.
const (
	maxBody       = 64 << 10
	maxPolicyBody = 2 << 20 // a document of document.Parse's size, each byte of it as \u0000
	readTimeout   = 5 * time.Second
	maxGrace      = 10 * time.Minute
)

// Server answers for one sandbox.
type Server struct {
	entry   *entry
	box     Box
	log     *slog.Logger
	http    *http.Server
	execs   execs
	streams atomic.Int64 // of the log
	serves  sync.WaitGroup
	once    sync.Once
	err     error
}

// Reserve takes the name for a sandbox that is about to begin, so that a second
// one of the same name fails before anything is started. Serve begins to
// answer; Close gives the name back.
func Reserve(name string, log *slog.Logger) (*Server, error) {
	dir, err := RuntimeDir()
	if err != nil {
		return nil, err
	}
	if _, err := live(dir); err != nil { // removes what dead ones have left
		return nil, err
	}
	e, err := claim(dir, name)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{entry: e, log: log}, nil
}

// Hide returns the directory that the guest must not see: that of all control
// sockets of the caller.
func (s *Server) Hide() string { return filepath.Dir(s.entry.dir) }

// Serve answers requests about box, in goroutines of its own, until Close.
func (s *Server) Serve(box Box) error {
	s.box = box
	// The directory is closed to others; the socket is too from the start.
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.entry.socket(), Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	l.SetUnlinkOnClose(false) // remove does it, with the lock held
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadTimeout:       readTimeout,
		ReadHeaderTimeout: readTimeout,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.serves.Go(func() {
		if err := s.http.Serve(&ownListener{UnixListener: l, served: box.Inspect().NetNS, log: s.log}); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the control socket has failed", "err", err)
		}
	})
	return nil
}

// handler takes the requests of the API.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/inspect", s.inspect)
	mux.HandleFunc("POST /v1/stop", s.stop)
	mux.HandleFunc("POST /v1/publish", s.publish)
	mux.HandleFunc("POST /v1/unpublish", s.unpublish)
	mux.HandleFunc("POST /v1/exec", s.exec)
	mux.HandleFunc("GET /v1/log", s.logStream)
	mux.HandleFunc("GET /v1/stat", s.stat)
	mux.HandleFunc("GET /v1/settings", s.settings)
	mux.HandleFunc("POST /v1/set", s.set)
	mux.HandleFunc("POST /v1/policy", s.policy)
	mux.HandleFunc("GET /v1/faults", s.faults)
	mux.HandleFunc("POST /v1/faults", s.addFaults)
	mux.HandleFunc("DELETE /v1/faults/{id}", s.removeFault)
	mux.HandleFunc("GET /v1/segments/{conn}", s.segments)
	mux.HandleFunc("POST /v1/conn/{conn}/{verb}", s.conn)
	return limitBodies(known(mux))
}

// known answers what mux does not know in the form of every other answer.
func known(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		var no refusal
		h.ServeHTTP(&no, r)
		hint := "the requests are in docs/control-api.md"
		if allow := no.Header().Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
			hint = "it takes " + allow
		}
		refuse(w, no.status, fmt.Errorf("%s %.80q: %s", r.Method, r.URL.Path, strings.ToLower(http.StatusText(no.status))), hint)
	})
}

// refusal keeps the status and the header of an answer.
type refusal struct {
	header http.Header
	status int
}

func (n *refusal) Header() http.Header {
	if n.header == nil {
		n.header = make(http.Header)
	}
	return n.header
}

func (n *refusal) WriteHeader(status int) { n.status = status }

func (n *refusal) Write(p []byte) (int, error) { return len(p), nil }

// Close ends all requests and gives the name back. It is safe to call twice.
func (s *Server) Close() error {
	s.once.Do(func() {
		s.endStreams()
		if s.http != nil {
			s.err = s.http.Close()
		}
		s.execs.close()
		s.serves.Wait()
		s.err = errors.Join(s.err, s.entry.remove())
	})
	return s.err
}

func (s *Server) inspect(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, Inspection{V: Version, Info: s.box.Inspect()})
}

func (s *Server) stop(w http.ResponseWriter, r *http.Request) {
	var req StopRequest
	if err := read(r, &req); err != nil {
		refuse(w, http.StatusBadRequest, err, `the body is {"grace_ms": N}`)
		return
	}
	if ms := req.GraceMilliseconds; ms < 0 || ms > maxGrace.Milliseconds() {
		refuse(w, http.StatusBadRequest, fmt.Errorf("a grace of %d ms", ms), "from 0 to 600000, which is 10 minutes")
		return
	}
	grace := time.Duration(req.GraceMilliseconds) * time.Millisecond
	if err := s.box.Stop(r.Context(), grace); err != nil {
		refuse(w, http.StatusInternalServerError, err, "")
		return
	}
	answer(w, http.StatusOK, struct {
		V int `json:"v"`
	}{Version})
}

// limitBodies bounds what a request's body may take.
func limitBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit := int64(maxBody)
		switch r.URL.Path {
		case "/v1/exec":
			limit = maxExecBody
		case "/v1/policy":
			limit = maxPolicyBody
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		h.ServeHTTP(w, r)
	})
}

// read decodes a body strictly.
func read(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return inWords(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// inWords says what is wrong with a body without a word of Go.
func inWords(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind):
		name := kind.Field
		if name == "" {
			name = "the body"
		}
		return fmt.Errorf("%s is %s, and not %s", name, jsonKind(kind.Type), kind.Value)
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the body is not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if text, ok := strings.CutPrefix(err.Error(), "json: "); ok {
		return errors.New(text)
	}
	return err
}

// jsonKind is what a value of a Go type is in JSON.
func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map, reflect.Pointer:
		return "an object"
	default:
		return "a number"
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // the client has gone
}

func refuse(w http.ResponseWriter, status int, err error, hint string) {
	answer(w, status, Failure{V: Version, Error: err.Error(), Hint: hint})
}
