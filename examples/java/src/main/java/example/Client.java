package example;

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.ErrorInfo;
import io.grpc.CallCredentials;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.modelregistry.v1.CreateModelRequest;
import io.modelregistry.v1.CreateModelVersionRequest;
import io.modelregistry.v1.GetModelRequest;
import io.modelregistry.v1.GetModelVersionRequest;
import io.modelregistry.v1.ListModelsRequest;
import io.modelregistry.v1.ListModelsResponse;
import io.modelregistry.v1.Model;
import io.modelregistry.v1.ModelServiceGrpc;
import io.modelregistry.v1.ModelServiceGrpc.ModelServiceBlockingStub;
import io.modelregistry.v1.ModelVersion;
import io.modelregistry.v1.PromoteVersionRequest;
import java.io.File;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** Promotes a model version from one model into another, as examples/README.md says. */
public final class Client {
  private static final int CALL_SECONDS = 20;
  private static final Path SERVICE_CONFIG = Path.of("protos/modelregistry/v1/service_config.json");

  private final ModelServiceBlockingStub service;

  private Client(ManagedChannel channel, String token) {
    service = ModelServiceGrpc.newBlockingStub(channel).withCallCredentials(new Bearer(token));
  }

  public static void main(String[] arguments) throws IOException {
    ManagedChannel channel =
        connect(System.getenv("MODELREGISTRY_TARGET"), new File(System.getenv("MODELREGISTRY_CA_CERT")));
    try {
      new Client(channel, System.getenv("MODELREGISTRY_TOKEN")).run();
    } catch (StatusRuntimeException error) {
      System.err.println(error.getMessage());
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  private void run() throws IOException {
    String folder = "ri.compass.main.folder." + UUID.randomUUID();
    Model staging = createModel("staging", folder);
    Model production = createModel("production", folder);
    System.err.printf("created %s and %s%n", staging.getRid(), production.getRid());

    ModelVersion version = register(staging);
    System.err.printf("registered %s%n", version.getRid());

    // The id makes the call safe to repeat: the service config does so when the answer is lost, and so may anybody.
    PromoteVersionRequest request =
        PromoteVersionRequest.newBuilder()
            .setModelRid(production.getRid())
            .setSourceModelVersionRid(version.getRid())
            .setPreview(true)
            .setRequestId(UUID.randomUUID().toString())
            .build();
    System.err.printf("promoted %s%n", service().promoteVersion(request).getRid());
    ModelVersion promoted = service().promoteVersion(request);
    System.err.printf("repeated %s%n", promoted.getRid());

    ModelVersion found =
        service()
            .getModelVersion(
                GetModelVersionRequest.newBuilder()
                    .setModelRid(production.getRid())
                    .setModelVersionRid(promoted.getRid())
                    .build());
    new PrintStream(System.out, true, StandardCharsets.UTF_8).println(JsonFormat.printer().print(found));

    tellFailure(service(), "ri.models.main.model." + UUID.randomUUID());
    // A deadline that has passed already, so that it is certainly missed.
    tellFailure(service.withDeadlineAfter(-1, TimeUnit.SECONDS), staging.getRid());

    int models = 0;
    int pages = 0;
    ListModelsRequest.Builder wanted =
        ListModelsRequest.newBuilder().setParentFolderRid(folder).setPageSize(1);
    ListModelsResponse page;
    do {
      page = service().listModels(wanted.build());
      models += page.getModelsCount();
      pages++;
      wanted.setPageToken(page.getNextPageToken());
    } while (page.hasNextPageToken());
    System.err.printf("listed %d models in %d pages%n", models, pages);
  }

  /** Opens a channel with TLS and the service config that comes with the protos. */
  private static ManagedChannel connect(String target, File authority) throws IOException {
    Map<String, ?> serviceConfig = new Gson().<Map<String, ?>>fromJson(Files.readString(SERVICE_CONFIG), Map.class);
    return Grpc.newChannelBuilder(target, TlsChannelCredentials.newBuilder().trustManager(authority).build())
        .defaultServiceConfig(serviceConfig)
        .keepAliveTime(30, TimeUnit.SECONDS)
        .keepAliveWithoutCalls(true)
        .build();
  }

  /** The service with a deadline for the next call, which begins here. */
  private ModelServiceBlockingStub service() {
    return service.withDeadlineAfter(CALL_SECONDS, TimeUnit.SECONDS);
  }

  private Model createModel(String name, String folder) {
    return service()
        .createModel(
            CreateModelRequest.newBuilder()
                .setName(name)
                .setParentFolderRid(folder)
                .setRequestId(UUID.randomUUID().toString())
                .build());
  }

  private ModelVersion register(Model model) {
    return service()
        .createModelVersion(
            CreateModelVersionRequest.newBuilder()
                .setModelRid(model.getRid())
                .setModelApi(WideModelApi.create())
                .addCondaRequirements("numpy==2.1.0")
                .addCondaRequirements("scikit-learn==1.7.2")
                .addBackingRepositories("ri.stemma.main.repository.churn")
                .setLinkedExperiment("ri.models.main.experiment.churn")
                .setRequestId(UUID.randomUUID().toString())
                .build());
  }

  private static void tellFailure(ModelServiceBlockingStub service, String modelRid)
      throws InvalidProtocolBufferException {
    try {
      service.getModel(GetModelRequest.newBuilder().setModelRid(modelRid).build());
    } catch (StatusRuntimeException error) {
      System.err.printf("failed with %s%n", described(error));
    }
  }

  /** An error's name, parameters and instance id, as its ErrorInfo has them, or else its code. */
  private static String described(StatusRuntimeException error) throws InvalidProtocolBufferException {
    for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        Map<String, String> told = new TreeMap<>(detail.unpack(ErrorInfo.class).getMetadataMap());
        String name = told.remove("errorName");
        String instance = told.remove("errorInstanceId");
        String parameters =
            told.entrySet().stream().map(each -> each + ", ").collect(Collectors.joining());
        return name + ", " + parameters + "instance " + instance;
      }
    }
    return error.getStatus().getCode().name();
  }

  /** A token that goes with each call. */
  private static final class Bearer extends CallCredentials {
    private static final Metadata.Key<String> AUTHORIZATION =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final String token;

    Bearer(String token) {
      this.token = token;
    }

    @Override
    public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
      Metadata headers = new Metadata();
      headers.put(AUTHORIZATION, "Bearer " + token);
      applier.apply(headers);
    }
  }
}
