// Command xds-clients is a fleet of sidecars as a control plane sees them: each one a delta ADS stream on a connection of
// its own, which asks as Envoy does (clusters, endpoints, listeners, routes), acknowledges, and does nothing else.
//
//	xds-clients -addr 127.0.0.1:15010 -nodes nodes.json
//
// The file holds a list of nodes as JSON (id, metadata). Standard input takes one command a line and standard output
// gives one line of JSON for each: `start` ends when every client has everything that it asked for, `wait ADDRESS` when
// every client was told of an endpoint with that address, `gone ADDRESS` when every client was told of its end. A time
// is that since the command before it was done.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	prefix    = "type.googleapis.com/envoy.config."
	clusters  = prefix + "cluster.v3.Cluster"
	endpoints = prefix + "endpoint.v3.ClusterLoadAssignment"
	listeners = prefix + "listener.v3.Listener"
	routes    = prefix + "route.v3.RouteConfiguration"
)

// What a resource tells: the names that it asks for, or the addresses in it.
type told struct {
	names []string
}

// Many clients are sent the same bytes: each is read once.
var (
	reading sync.Mutex
	known   = map[string]told{}
)

func read(body *anypb.Any) told {
	reading.Lock()
	defer reading.Unlock()
	key := string(body.Value)
	if found, ok := known[key]; ok {
		return found
	}
	found := told{}
	switch body.TypeUrl {
	case clusters:
		var one cluster.Cluster
		must(body.UnmarshalTo(&one))
		if one.GetType() == cluster.Cluster_EDS {
			name := one.GetEdsClusterConfig().GetServiceName()
			if name == "" {
				name = one.Name
			}
			found.names = []string{name}
		}
	case listeners:
		var one listener.Listener
		must(body.UnmarshalTo(&one))
		chains := one.FilterChains
		if one.DefaultFilterChain != nil {
			chains = append(chains, one.DefaultFilterChain)
		}
		for _, chain := range chains {
			for _, filter := range chain.Filters {
				var manager hcm.HttpConnectionManager
				if filter.GetTypedConfig().MessageIs(&manager) {
					must(filter.GetTypedConfig().UnmarshalTo(&manager))
					if name := manager.GetRds().GetRouteConfigName(); name != "" {
						found.names = append(found.names, name)
					}
				}
			}
		}
	case endpoints:
		var one endpoint.ClusterLoadAssignment
		must(body.UnmarshalTo(&one))
		for _, locality := range one.Endpoints {
			for _, each := range locality.LbEndpoints {
				found.names = append(found.names, each.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
			}
		}
	}
	known[key] = found
	return found
}

// One sidecar.
type client struct {
	sync.Mutex
	got     map[string]map[string]told // type -> name -> what it tells
	wanted  map[string]map[string]bool // names that were asked for, of those that are asked for by name
	bytes   int
	changed func()
}

func (c *client) run(address string, node *core.Node) {
	connection, err := grpc.NewClient(
		address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
	must(err)
	// As Envoy, which tries again: a control plane may refuse whom it cannot serve yet.
	for !c.listen(connection, node) {
		time.Sleep(time.Duration(500+rand.IntN(500)) * time.Millisecond)
	}
}

// Until the stream ends; whether it was served until then.
func (c *client) listen(connection *grpc.ClientConn, node *core.Node) bool {
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(
		context.Background(), grpc.WaitForReady(true))
	must(err)
	ask := func(request *discovery.DeltaDiscoveryRequest) {
		if err := stream.Send(request); err != io.EOF { // of which Recv tells the reason
			must(err)
		}
	}
	ask(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: clusters})
	ask(&discovery.DeltaDiscoveryRequest{TypeUrl: listeners})
	for served := false; ; served = true {
		answer, err := stream.Recv()
		if !served && (status.Code(err) == codes.ResourceExhausted || status.Code(err) == codes.Unavailable) {
			return false
		}
		must(err)
		c.Lock()
		c.take(answer)
		more := map[string][]string{}
		for of, named := range map[string]string{clusters: endpoints, listeners: routes} {
			if answer.TypeUrl == of {
				more[named] = c.missing(of, named)
			}
		}
		c.Unlock()
		ask(&discovery.DeltaDiscoveryRequest{TypeUrl: answer.TypeUrl, ResponseNonce: answer.Nonce})
		for url, names := range more {
			if len(names) > 0 {
				ask(&discovery.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: names})
			}
		}
		c.changed()
	}
}

func (c *client) take(answer *discovery.DeltaDiscoveryResponse) {
	table := c.got[answer.TypeUrl]
	if table == nil {
		table = map[string]told{}
		c.got[answer.TypeUrl] = table
	}
	for _, one := range answer.Resources {
		table[one.Name] = read(one.Resource)
		c.bytes += len(one.Resource.GetValue())
	}
	for _, name := range answer.RemovedResources {
		delete(table, name)
	}
}

func (c *client) missing(of, named string) []string {
	found := []string{}
	if c.wanted[named] == nil {
		c.wanted[named] = map[string]bool{}
	}
	for _, one := range c.got[of] {
		for _, name := range one.names {
			if !c.wanted[named][name] {
				c.wanted[named][name] = true
				found = append(found, name)
			}
		}
	}
	sort.Strings(found)
	return found
}

func (c *client) complete() bool {
	c.Lock()
	defer c.Unlock()
	if c.got[clusters] == nil || c.got[listeners] == nil {
		return false
	}
	for url, names := range c.wanted {
		for name := range names {
			if _, ok := c.got[url][name]; !ok {
				return false
			}
		}
	}
	return len(c.wanted[endpoints]) > 0
}

func (c *client) has(address string) bool {
	c.Lock()
	defer c.Unlock()
	for _, one := range c.got[endpoints] {
		for _, each := range one.names {
			if each == address {
				return true
			}
		}
	}
	return false
}

// The fleet, and who waits for it.
type fleet struct {
	clients []*client
	signal  chan *client
}

// Until something holds of every client; only those that have heard something are asked again.
func (f *fleet) until(holds func(*client) bool) {
	left := map[*client]bool{}
	for _, one := range f.clients {
		if !holds(one) {
			left[one] = true
		}
	}
	for len(left) > 0 {
		one := <-f.signal
		if left[one] && holds(one) {
			delete(left, one)
		}
	}
}

func main() {
	address := flag.String("addr", "", "of the control plane")
	file := flag.String("nodes", "", "a JSON list of nodes")
	flag.Parse()
	text, err := os.ReadFile(*file)
	must(err)
	var raw []json.RawMessage
	must(json.Unmarshal(text, &raw))
	all := &fleet{signal: make(chan *client, 1<<20)}
	var nodes []*core.Node
	for _, one := range raw {
		node := &core.Node{}
		must(protojson.Unmarshal(one, node))
		nodes = append(nodes, node)
		made := &client{got: map[string]map[string]told{}, wanted: map[string]map[string]bool{}}
		made.changed = func() { all.signal <- made }
		all.clients = append(all.clients, made)
	}
	since := time.Now()
	say := func(event string, more map[string]any) {
		more["event"], more["seconds"] = event, time.Since(since).Seconds()
		line, _ := json.Marshal(more)
		fmt.Println(string(line))
		since = time.Now()
	}
	say("ready", map[string]any{})
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		switch words[0] {
		case "mark":
			since = time.Now()
			continue
		case "start":
			since = time.Now()
			for number, one := range all.clients {
				go one.run(*address, nodes[number])
			}
			all.until((*client).complete)
			first := all.clients[0]
			counts := map[string]any{"bytes": first.bytes}
			for url, table := range first.got {
				counts[strings.TrimPrefix(url, prefix)] = len(table)
			}
			say("synced", counts)
		case "wait":
			all.until(func(one *client) bool { return one.has(words[1]) })
			say("told", map[string]any{"address": words[1]})
		case "gone":
			all.until(func(one *client) bool { return !one.has(words[1]) })
			say("gone", map[string]any{"address": words[1]})
		default:
			log.Fatalf("unknown command %q", commands.Text())
		}
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
