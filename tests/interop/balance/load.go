// A client that reads and promotes until its standard input is closed; load.py beside it does the same.
//
// It says `ready` when each caller has had an answer, and at the end, as JSON, how many calls there were, which versions
// they promoted, and what failed. It is built in a copy of examples/go, as load/main.go, with the stubs of that module.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // without it the service config's healthCheckConfig says nothing
	"google.golang.org/grpc/resolver/dns"
	"google.golang.org/protobuf/proto"

	registry "example.com/modelregistry-client/modelregistry/v1"
)

func main() {
	log.SetFlags(0)
	model := flag.String("model", "", "where to promote, and whose branch to read")
	version := flag.String("version", "", "what to promote")
	concurrency := flag.Int("concurrency", 4, "how many callers there are")
	config := flag.String("config", "", "the file with the service config")
	resolve := flag.Duration("resolve", 100*time.Millisecond, "how often a name is resolved at most")
	flag.Parse()

	dns.SetMinResolutionInterval(*resolve)
	conn, err := connect(os.Getenv("MODELREGISTRY_TARGET"), *config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	load := load{client: registry.NewModelServiceClient(conn), model: *model, version: *version}
	if err := json.NewEncoder(os.Stdout).Encode(load.run(*concurrency)); err != nil {
		log.Fatal(err)
	}
}

// load is what the callers call.
type load struct {
	client         registry.ModelServiceClient
	model, version string
}

// outcome is what came of the calls of one caller, or of all.
type outcome struct {
	Reads      int      `json:"reads"`
	Promotions int      `json:"promotions"`
	Versions   []string `json:"versions"`
	Failures   []string `json:"failures"`
}

// run calls until standard input ends, lets the calls come to their ends, and returns what came of them.
func (l load) run(concurrency int) outcome {
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()

	var first, callers sync.WaitGroup
	outcomes := make([]outcome, concurrency)
	for i := range outcomes {
		first.Add(1)
		callers.Go(func() { outcomes[i] = l.call(ended, sync.OnceFunc(first.Done)) })
	}
	ready := make(chan struct{})
	go func() {
		first.Wait()
		close(ready)
	}()
	select {
	case <-ready:
		fmt.Println("ready")
	case <-ended: // before all have had an answer
	}
	callers.Wait()
	return total(outcomes)
}

// call reads and promotes in turns, and tells when the first read has succeeded.
func (l load) call(ended <-chan struct{}, succeeded func()) (came outcome) {
	// The deadlines are those of the service config.
	ctx := context.Background()
	for {
		select {
		case <-ended:
			return came
		default:
		}
		if _, err := l.client.GetBranch(ctx, &registry.GetBranchRequest{ModelRid: l.model}); err != nil {
			came.Failures = append(came.Failures, err.Error())
			continue
		}
		came.Reads++
		succeeded()
		promoted, err := l.client.PromoteVersion(ctx, &registry.PromoteVersionRequest{
			ModelRid:              l.model,
			SourceModelVersionRid: l.version,
			Preview:               true,
			RequestId:             proto.String(uuid.NewString()),
		})
		if err != nil {
			came.Failures = append(came.Failures, err.Error())
			continue
		}
		came.Versions = append(came.Versions, promoted.GetRid())
	}
}

func total(outcomes []outcome) outcome {
	// Not nil, which JSON has as null.
	all := outcome{Versions: []string{}, Failures: []string{}}
	for _, one := range outcomes {
		all.Reads += one.Reads
		all.Promotions += len(one.Versions)
		all.Versions = append(all.Versions, one.Versions...)
		all.Failures = append(all.Failures, one.Failures...)
	}
	return all
}

func connect(target, configFile string) (*grpc.ClientConn, error) {
	config, err := os.ReadFile(configFile)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(bearer(os.Getenv("MODELREGISTRY_TOKEN"))),
		grpc.WithDefaultServiceConfig(string(config)),
		// What is tested is on this machine, and a proxy of the environment would resolve names elsewhere.
		grpc.WithNoProxy(),
	)
}

// bearer is a token that goes with each call.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }
