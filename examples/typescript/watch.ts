// Prints each promotion into a model once, as examples/README.md says: with stubs that protoc-gen-es generated, over
// Connect's gRPC transport.

import { setTimeout as sleep } from "node:timers/promises";

import { create } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError } from "@connectrpc/connect";

import { connect, described } from "./connection.js";
import { EventService, type WatchEventsRequest, WatchEventsRequestSchema } from "./gen/modelregistry/v1/event_service_pb.js";

// How long to wait before a stream is opened again: a random part of the first, of twice as much, up to the last.
const firstPauseMs = 500;
const lastPauseMs = 30_000;

// What another server, or the same one later, would say again. OutOfRange is CursorUnknown and CursorExpired.
const lasting = [Code.InvalidArgument, Code.NotFound, Code.OutOfRange, Code.PermissionDenied, Code.Unimplemented];

/** Prints promotions from now on or behind a cursor, whatever becomes of streams and servers, until it cannot go on. */
async function watch(modelRid: string, afterCursor?: string): Promise<never> {
  const { client, close } = connect(EventService);
  const types = ["modelregistry.version.promoted.v1"];
  const request = create(WatchEventsRequestSchema, { modelRid, afterCursor, types });
  try {
    for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(2 * pauseMs, lastPauseMs)) {
      const { began, error } = await follow(client, request);
      // A token that was good has expired. One that was never good does not become it.
      if (lasting.includes(error.code) || (error.code === Code.Unauthenticated && !began)) {
        throw new Error(`failed with ${described(error)}`);
      }
      console.error(`goes on after ${described(error)}`);
      if (began) {
        pauseMs = firstPauseMs;
      }
      await sleep(pauseMs * Math.random());
    }
  } finally {
    close();
  }
}

/**
 * Prints what one stream tells, until that ends, and keeps the place behind it in the request. Returns whether the stream
 * has told anything, if only a place, and what ended it.
 */
async function follow(
  client: Client<typeof EventService>,
  request: WatchEventsRequest,
): Promise<{ began: boolean; error: ConnectError }> {
  let began = false;
  try {
    // No deadline: it lasts as long as it can.
    for await (const { events, cursor } of client.watchEvents(request, { timeoutMs: 0 })) {
      if (!began) {
        console.error(`watches ${request.modelRid}`);
        began = true;
      }
      // Without events it is a bookmark: a place, and a sign of life.
      for (const event of events) {
        if (event.subject?.type.case === "promotion") {
          console.log(event.branch, event.subject.type.value.versionNumber, event.modelVersionRid, event.cursor);
        }
      }
      request.afterCursor = cursor;
    }
    return { began, error: new ConnectError("the stream has ended", Code.Unavailable) };
  } catch (error) {
    return { began, error: ConnectError.from(error) };
  }
}

try {
  await watch(process.argv[2], process.argv[3]);
} catch (error) {
  console.error(`${error}`);
  process.exitCode = 1;
}
