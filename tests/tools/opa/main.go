// Command opa-authz is Open Policy Agent as an external authorizer: it serves envoy.service.auth.v3.Authorization and
// answers what a Rego policy decides.
//
//	opa-authz -addr 127.0.0.1:9000 -policy policy.rego -query data.shop.authz.allow
//
// The policy's input is the CheckRequest in JSON, as OPA's own plugin for Envoy gives it. Its decision is a boolean, or
// an object: `allowed`, and then `headers` (to the upstream), `request_headers_to_remove`, `response_headers_to_add`,
// `dynamic_metadata`; denied: `http_status`, `headers`, `body`. A policy that decides nothing denies; one that fails is
// an error of the call, so that the proxy says what becomes of the request.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	types "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/open-policy-agent/opa/v1/rego"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

type server struct {
	auth.UnimplementedAuthorizationServer
	query rego.PreparedEvalQuery
}

// Check evaluates the policy.
func (s *server) Check(ctx context.Context, request *auth.CheckRequest) (*auth.CheckResponse, error) {
	encoded, err := protojson.Marshal(request)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	var input any
	if err := json.Unmarshal(encoded, &input); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	results, err := s.query.Eval(ctx, rego.EvalInput(input))
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if len(results) == 0 {
		return denied(map[string]any{}), nil
	}
	switch decision := results[0].Expressions[0].Value.(type) {
	case bool:
		if decision {
			return allowed(map[string]any{})
		}
		return denied(map[string]any{}), nil
	case map[string]any:
		if decision["allowed"] == true {
			return allowed(decision)
		}
		return denied(decision), nil
	default:
		return nil, status.Errorf(codes.Internal, "the policy decides %T", decision)
	}
}

func allowed(decision map[string]any) (*auth.CheckResponse, error) {
	ok := &auth.OkHttpResponse{
		Headers:              headers(decision["headers"]),
		ResponseHeadersToAdd: headers(decision["response_headers_to_add"]),
	}
	names, _ := decision["request_headers_to_remove"].([]any)
	for _, name := range names {
		ok.HeadersToRemove = append(ok.HeadersToRemove, fmt.Sprint(name))
	}
	response := &auth.CheckResponse{
		Status:       &rpc.Status{Code: int32(codes.OK)},
		HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok},
	}
	if said, ok := decision["dynamic_metadata"].(map[string]any); ok {
		// Numbers of Rego are no numbers of Go: through JSON they become such.
		encoded, err := json.Marshal(said)
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		metadata := &structpb.Struct{}
		if err := protojson.Unmarshal(encoded, metadata); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		response.DynamicMetadata = metadata
	}
	return response, nil
}

func denied(decision map[string]any) *auth.CheckResponse {
	code := 403
	if said, ok := decision["http_status"].(json.Number); ok {
		if number, err := said.Int64(); err == nil {
			code = int(number)
		}
	}
	body, _ := decision["body"].(string)
	return &auth.CheckResponse{
		Status: &rpc.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
			Status:  &types.HttpStatus{Code: types.StatusCode(code)},
			Headers: headers(decision["headers"]),
			Body:    body,
		}},
	}
}

func headers(said any) []*core.HeaderValueOption {
	var options []*core.HeaderValueOption
	fields, _ := said.(map[string]any)
	for name, value := range fields {
		header := &core.HeaderValue{Key: name, Value: fmt.Sprint(value)}
		options = append(options, &core.HeaderValueOption{Header: header})
	}
	return options
}

func main() {
	address := flag.String("addr", "127.0.0.1:0", "where to listen")
	policy := flag.String("policy", "", "a file in Rego")
	query := flag.String("query", "data.authz.allow", "what decides")
	flag.Parse()
	module, err := os.ReadFile(*policy)
	if err != nil {
		log.Fatal(err)
	}
	prepared, err := rego.New(rego.Query(*query), rego.Module(*policy, string(module))).PrepareForEval(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	serving := grpc.NewServer()
	auth.RegisterAuthorizationServer(serving, &server{query: prepared})
	log.Fatal(serving.Serve(listener))
}
