package control

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// FuzzRequests sends any request: the answer is always JSON of this version,
// and what was wrong with a request is never the server's failure.
func FuzzRequests(f *testing.F) {
	for _, seed := range []struct{ method, path, body string }{
		{"GET", "/v1/inspect", ""},
		{"POST", "/v1/stop", `{"grace_ms":5000}`},
		{"POST", "/v1/stop", `{"grace_ms":-1}`},
		{"POST", "/v1/publish", `{"spec":"8080:80","accept_from":["192.0.2.0/24"]}`},
		{"POST", "/v1/unpublish", `{"spec":"[::1]:0:80/udp"}`},
		{"POST", "/v1/exec", `{"args":["true"]}`},
		{"GET", "/v1/settings", ""},
		{"POST", "/v1/set", `{"settings":["fin-timeout=5s","stack.syn-backlog=4"]}`},
		{"POST", "/v1/policy", `{"text":"version: 1\nnet: some\ntcp: {fin-timeout: 5s}\n","file":"\u001b.yaml"}`},
		{"POST", "/v1/policy", `{"document":{"version":1,"net":"none","rules":["allow @public"],"tcp":{"fin-timeout":"5s"},"sysctl":{"net.ipv4.tcp_sack":"0"}}}`},
		{"POST", "/v1/conn/7/rst", ""},
		{"POST", "/v1/conn/8/thaw", "{}"},
		{"POST", "/v1/conn/-1/melt", `{"a":1}`},
		{"PUT", "/v1/stop", `{}`},
		{"GET", "/v2/../v1/inspect", `{"a":1}{"b":2}`},
	} {
		f.Add(seed.method, seed.path, []byte(seed.body))
	}
	s := &Server{box: &fakeBox{}, log: slog.New(slog.DiscardHandler)}
	h := s.handler()
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		r := &http.Request{Method: method, URL: &url.URL{Path: path}, Header: http.Header{}, Host: "sandbox", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
		if b, err := http.NewRequestWithContext(t.Context(), "POST", "http://sandbox/", bytes.NewReader(body)); err == nil {
			r.Body = b.Body
			r = r.WithContext(t.Context())
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= http.StatusMultipleChoices && w.Code < http.StatusBadRequest { // a path that was cleaned
			return
		}
		var answer struct {
			V     int    `json:"v"`
			Error string `json:"error"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.V != Version {
			t.Fatalf("%s %q %q: %d %q", method, path, body, w.Code, w.Body)
		}
		if (w.Code != http.StatusOK) != (answer.Error != "") {
			t.Errorf("%s %q %q: status %d and error %q", method, path, body, w.Code, answer.Error)
		}
	})
}
