package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	httpHeaderTimeout  = 30 * time.Second
	httpIdleTimeout    = 2 * time.Minute
	httpMaxHeaderBytes = 16 << 10
)

// serveHTTP is Serve for the kind HTTP.
func serveHTTP(ctx context.Context, ln net.Listener) error {
	var (
		wg    sync.WaitGroup // one for each connection
		conns atomic.Int64
	)
	srv := &http.Server{
		Handler:           httpHandler(),
		ReadHeaderTimeout: httpHeaderTimeout,
		IdleTimeout:       httpIdleTimeout,
		MaxHeaderBytes:    httpMaxHeaderBytes,
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnState: func(conn net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				wg.Add(1)
				if conns.Add(1) > MaxConns {
					_ = reset(conn)
				}
			case http.StateClosed, http.StateHijacked:
				conns.Add(-1)
				wg.Done()
			}
		},
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		srv.Close()
		ln.Close()
	})
	err := srv.Serve(ln)
	if stop() {
		srv.Close() // the listener failed before ctx ended
	} else {
		<-ended
	}
	wg.Wait()
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("peer: serve http: %w", err)
}

// httpHandler returns what an HTTP peer answers. Its text has no times and no
// versions in it, so that it can be compared.
func httpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /bytes/{n}", serveBytes)
	mux.HandleFunc("POST /echo", serveEcho)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil // not sent
		w.Header().Set("Server", "tcpbox-peer")
		mux.ServeHTTP(w, r)
	})
}

// servePage answers / with a few lines that say who is speaking and what else
// there is to ask.
func servePage(w http.ResponseWriter, r *http.Request) {
	name := hostOf(r)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Hello from %s, a host inside the sandbox's own network stack.\n"+
		"\n"+
		"  GET  /bytes/N   N bytes\n"+
		"  POST /echo      the body back\n", name)
}

// hostOf returns the name by which the client asked, if it is one, and else the
// address that it reached.
func hostOf(r *http.Request) string {
	name := strings.ToLower(r.Host)
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if checkName(name) == nil {
		return name
	}
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if host, _, err := net.SplitHostPort(addr.String()); err == nil {
			return host
		}
	}
	return "a peer"
}

// serveBytes answers /bytes/N with the first N bytes of the endless pattern.
func serveBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseUint(r.PathValue("n"), 10, 63)
	if err != nil {
		http.Error(w, "the path is /bytes/N with a number N, such as /bytes/1000000", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=us-ascii")
	w.Header().Set("Content-Length", strconv.FormatUint(n, 10))
	if r.Method == http.MethodHead {
		return
	}
	pattern := sourcePattern()
	for n > 0 {
		part := pattern[:min(n, uint64(len(pattern)))]
		if _, err := w.Write(part); err != nil {
			return
		}
		n -= uint64(len(part))
	}
}

// serveEcho answers with the body, while it is still coming.
func serveEcho(w http.ResponseWriter, r *http.Request) {
	contentType := r.Header.Get("Content-Type")
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	w.Header().Set("Content-Type", contentType)
	if r.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
	}
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/1 has it
	buffer := echoBuffers.Get().(*[echoBytes]byte)
	defer echoBuffers.Put(buffer)
	_, _ = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r.Body}, buffer[:])
}
