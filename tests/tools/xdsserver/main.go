// An ADS server made of Envoy's go-control-plane: serves snapshots in both variants and tells what clients say.
//
// The control port takes snapshots over HTTP: {"version": "1", "resources": {"<type URL>": ["<message, base64>"]}}.
// Standard output gives one line a request: what was asked for, acknowledged or refused.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

type input struct {
	Version   string              `json:"version"`
	Resources map[string][][]byte `json:"resources"`
}

type heard struct {
	Stream int64    `json:"stream"`
	Type   string   `json:"type"`
	Node   string   `json:"node"`
	Nonce  string   `json:"nonce"`
	Names  []string `json:"names"`
	Error  string   `json:"error"`
}

// Every client gets the same.
type everybody struct{}

func (everybody) ID(*core.Node) string { return "" }

func main() {
	port := flag.Int("port", 0, "for clients, on loopback")
	control := flag.Int("control", 0, "for snapshots, on loopback")
	flag.Parse()
	var printing sync.Mutex
	tell := func(stream int64, url, nonce string, node *core.Node, names []string, failure *status.Status) {
		line, _ := json.Marshal(heard{stream, url, node.GetId(), nonce, names, failure.GetMessage()})
		printing.Lock()
		defer printing.Unlock()
		fmt.Println(string(line))
	}
	callbacks := server.CallbackFuncs{
		StreamRequestFunc: func(stream int64, r *discovery.DiscoveryRequest) error {
			tell(stream, r.TypeUrl, r.ResponseNonce, r.Node, r.ResourceNames, r.ErrorDetail)
			return nil
		},
		StreamDeltaRequestFunc: func(stream int64, r *discovery.DeltaDiscoveryRequest) error {
			tell(stream, r.TypeUrl, r.ResponseNonce, r.Node, r.ResourceNamesSubscribe, r.ErrorDetail)
			return nil
		},
	}
	snapshots := cache.NewSnapshotCache(true, everybody{}, nil)
	take := http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if err := put(snapshots, request); err != nil {
			http.Error(answer, err.Error(), http.StatusBadRequest)
		}
	})
	go func() { log.Fatal(http.ListenAndServe(address(*control), take)) }()
	listener, err := net.Listen("tcp", address(*port))
	if err != nil {
		log.Fatal(err)
	}
	grpcServer := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(
		grpcServer, server.NewServer(context.Background(), snapshots, callbacks))
	log.Fatal(grpcServer.Serve(listener))
}

func put(snapshots cache.SnapshotCache, request *http.Request) error {
	var given input
	if err := json.NewDecoder(request.Body).Decode(&given); err != nil {
		return err
	}
	resources := map[string][]types.Resource{}
	for url, messages := range given.Resources {
		for _, octets := range messages {
			message, err := (&anypb.Any{TypeUrl: url, Value: octets}).UnmarshalNew()
			if err != nil {
				return err
			}
			resources[url] = append(resources[url], message)
		}
	}
	snapshot, err := cache.NewSnapshot(given.Version, resources)
	if err != nil {
		return err
	}
	return snapshots.SetSnapshot(context.Background(), "", snapshot)
}

func address(port int) string {
	return fmt.Sprintf("127.0.0.1:%d", port)
}
