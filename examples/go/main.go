// Promotes a model version from one model into another, or watches what is promoted into one, as examples/README.md says.
package main

import (
	"context"
	_ "embed"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/health" // without it the service config's healthCheckConfig says nothing
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	registry "example.com/modelregistry-client/modelregistry/v1"
)

const callTimeout = 20 * time.Second

//go:embed protos/modelregistry/v1/service_config.json
var serviceConfig string

func main() {
	log.SetFlags(0)
	if err := run(context.Background(), os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	conn, err := connect(os.Getenv("MODELREGISTRY_TARGET"), os.Getenv("MODELREGISTRY_CA_CERT"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if len(args) > 1 && args[0] == "watch" {
		return watch(ctx, registry.NewEventServiceClient(conn), args[1], args[2:]...)
	}
	return promoteWide(ctx, registry.NewModelServiceClient(conn))
}

func promoteWide(ctx context.Context, client registry.ModelServiceClient) error {
	folder := "ri.compass.main.folder." + uuid.NewString()
	staging, err := createModel(ctx, client, "staging", folder)
	if err != nil {
		return err
	}
	production, err := createModel(ctx, client, "production", folder)
	if err != nil {
		return err
	}
	log.Printf("created %s and %s", staging.GetRid(), production.GetRid())

	version, err := register(ctx, client, staging)
	if err != nil {
		return err
	}
	log.Printf("registered %s", version.GetRid())

	// The id makes the call safe to repeat: the service config does so when the answer is lost, and so may anybody.
	request := &registry.PromoteVersionRequest{
		ModelRid:              production.GetRid(),
		SourceModelVersionRid: version.GetRid(),
		Preview:               true,
		RequestId:             proto.String(uuid.NewString()),
	}
	promoted, err := promote(ctx, client, request)
	if err != nil {
		return err
	}
	log.Printf("promoted %s", promoted.GetRid())
	if promoted, err = promote(ctx, client, request); err != nil {
		return err
	}
	log.Printf("repeated %s", promoted.GetRid())

	if err := printVersion(ctx, client, promoted); err != nil {
		return err
	}

	if err := getModel(ctx, client, "ri.models.main.model."+uuid.NewString(), callTimeout); err != nil {
		log.Printf("failed with %s", described(err))
	}
	// A deadline that has passed already, so that it is certainly missed.
	if err := getModel(ctx, client, staging.GetRid(), -time.Second); err != nil {
		log.Printf("failed with %s", described(err))
	}

	models, pages, err := countModels(ctx, client, folder)
	if err != nil {
		return err
	}
	log.Printf("listed %d models in %d pages", models, pages)
	return nil
}

// connect opens a connection with TLS, the token, and the service config that comes with the protos.
func connect(target, caFile string) (*grpc.ClientConn, error) {
	tls, err := credentials.NewClientTLSFromFile(caFile, "")
	if err != nil {
		return nil, err
	}
	// By default, a server that was away for long is looked for every two minutes.
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = 10 * time.Second
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(tls),
		grpc.WithPerRPCCredentials(bearer{}),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 20 * time.Second}),
	)
}

// bearer sends the token with each call: the one in a file that somebody renews, if there is one.
type bearer struct{}

func (bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token := os.Getenv("MODELREGISTRY_TOKEN")
	if file := os.Getenv("MODELREGISTRY_TOKEN_FILE"); file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, status.Error(codes.Unauthenticated, err.Error())
		}
		token = strings.TrimSpace(string(content))
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

func createModel(ctx context.Context, client registry.ModelServiceClient, name, folder string) (*registry.Model, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return client.CreateModel(ctx, &registry.CreateModelRequest{
		Name:            name,
		ParentFolderRid: folder,
		RequestId:       proto.String(uuid.NewString()),
	})
}

func register(ctx context.Context, client registry.ModelServiceClient, model *registry.Model) (*registry.ModelVersion, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return client.CreateModelVersion(ctx, &registry.CreateModelVersionRequest{
		ModelRid:            model.GetRid(),
		ModelApi:            wideModelAPI(),
		CondaRequirements:   []string{"numpy==2.1.0", "scikit-learn==1.7.2"},
		BackingRepositories: []string{"ri.stemma.main.repository.churn"},
		LinkedExperiment:    proto.String("ri.models.main.experiment.churn"),
		RequestId:           proto.String(uuid.NewString()),
	})
}

func promote(ctx context.Context, client registry.ModelServiceClient, request *registry.PromoteVersionRequest) (*registry.ModelVersion, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return client.PromoteVersion(ctx, request)
}

func printVersion(ctx context.Context, client registry.ModelServiceClient, version *registry.ModelVersion) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := client.GetModelVersion(ctx, &registry.GetModelVersionRequest{
		ModelRid:        version.GetModelRid(),
		ModelVersionRid: version.GetRid(),
	})
	if err != nil {
		return err
	}
	fmt.Println(protojson.Format(found))
	return nil
}

func getModel(ctx context.Context, client registry.ModelServiceClient, rid string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := client.GetModel(ctx, &registry.GetModelRequest{ModelRid: rid})
	return err
}

// countModels asks for the models of a folder, page by page, each of one model.
func countModels(ctx context.Context, client registry.ModelServiceClient, folder string) (models, pages int, err error) {
	request := &registry.ListModelsRequest{ParentFolderRid: &folder, PageSize: 1}
	for {
		page, err := listModels(ctx, client, request)
		if err != nil {
			return 0, 0, err
		}
		models += len(page.GetModels())
		pages++
		if page.NextPageToken == nil {
			return models, pages, nil
		}
		request.PageToken = page.NextPageToken
	}
}

func listModels(ctx context.Context, client registry.ModelServiceClient, request *registry.ListModelsRequest) (*registry.ListModelsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return client.ListModels(ctx, request)
}

// described tells an error's name, parameters and instance id, as its ErrorInfo has them, or else its code.
func described(err error) string {
	failed := status.Convert(err)
	for _, detail := range failed.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok {
			continue
		}
		told := maps.Clone(info.GetMetadata())
		name, instance := told["errorName"], told["errorInstanceId"]
		delete(told, "errorName")
		delete(told, "errorInstanceId")
		parts := []string{name}
		for _, key := range slices.Sorted(maps.Keys(told)) {
			parts = append(parts, key+"="+told[key])
		}
		return strings.Join(append(parts, "instance "+instance), ", ")
	}
	return code.Code(failed.Code()).String()
}
