// An origin on net/http, HTTP/1.1 and cleartext HTTP/2 on one port, that says what it understood: one JSON object on a
// line of standard output for each request, and the same as the answer.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
)

// Seen is what tests/conformance/corpus/seen.py reads.
type Seen struct {
	Method    string      `json:"method"`
	Target    string      `json:"target"`
	Authority string      `json:"authority"`
	Fields    [][2]string `json:"fields"`
	Trailers  [][2]string `json:"trailers"`
	Length    int         `json:"length"`
	SHA256    string      `json:"sha256"`
	Complete  bool        `json:"complete"`
	Peer      int         `json:"peer"`
	Serial    int64       `json:"serial"`
}

type serialKey struct{}

var output sync.Mutex

func main() {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Addr:           os.Args[1],
		Handler:        http.HandlerFunc(answer),
		Protocols:      protocols,
		MaxHeaderBytes: 1 << 20,
		// Requests are counted for each connection.
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, serialKey{}, new(atomic.Int64))
		},
	}
	log.Fatal(server.ListenAndServe())
}

func answer(w http.ResponseWriter, r *http.Request) {
	serial, _ := r.Context().Value(serialKey{}).(*atomic.Int64)
	seen := Seen{Method: r.Method, Target: r.RequestURI, Authority: r.Host, Serial: serial.Add(1)}
	body, err := io.ReadAll(r.Body)
	digest := sha256.Sum256(body)
	seen.Length, seen.SHA256, seen.Complete = len(body), hex.EncodeToString(digest[:]), err == nil
	seen.Fields, seen.Trailers = pairs(r.Header), pairs(r.Trailer)
	_, port, _ := net.SplitHostPort(r.RemoteAddr)
	seen.Peer, _ = strconv.Atoi(port)
	line, _ := json.Marshal(seen)
	line = append(line, '\n')
	output.Lock()
	os.Stdout.Write(line)
	output.Unlock()
	w.Header().Set("content-type", "application/json")
	w.Header().Set("content-length", strconv.Itoa(len(line)))
	w.Write(line)
}

// Octets of a value as characters of Latin-1: JSON has no octets.
func pairs(header http.Header) [][2]string {
	list := [][2]string{}
	for name, values := range header {
		for _, value := range values {
			runes := make([]rune, len(value))
			for at := range len(value) {
				runes[at] = rune(value[at])
			}
			list = append(list, [2]string{name, string(runes)})
		}
	}
	return list
}
