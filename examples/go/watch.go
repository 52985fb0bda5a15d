package main

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	registry "example.com/modelregistry-client/modelregistry/v1"
)

// How long to wait before a stream is opened again: a random part of the first, of twice as much, up to the last.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second
)

// What another server, or the same one later, would say again. OUT_OF_RANGE is CursorUnknown and CursorExpired.
var lasting = map[codes.Code]bool{
	codes.InvalidArgument:  true,
	codes.NotFound:         true,
	codes.OutOfRange:       true,
	codes.PermissionDenied: true,
	codes.Unimplemented:    true,
}

// watch prints each promotion into a model once, from now on or behind a cursor, whatever becomes of streams and servers.
// It returns only when it cannot go on.
func watch(ctx context.Context, client registry.EventServiceClient, model string, after ...string) error {
	request := &registry.WatchEventsRequest{ModelRid: &model, Types: []string{"modelregistry.version.promoted.v1"}}
	if len(after) > 0 {
		request.AfterCursor = &after[0]
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		began, err := follow(ctx, client, request)
		code := status.Code(err)
		// A token that was good has expired. One that was never good does not become it.
		if lasting[code] || (code == codes.Unauthenticated && !began) {
			return fmt.Errorf("failed with %s", described(err))
		}
		log.Printf("goes on after %s", described(err))
		if began {
			pause = firstPause
		}
		time.Sleep(rand.N(pause))
	}
}

// follow prints what one stream tells, until that ends, and keeps the place behind it in the request. It returns whether
// the stream has told anything, if only a place, and what ended it.
func follow(ctx context.Context, client registry.EventServiceClient, request *registry.WatchEventsRequest) (began bool, err error) {
	stream, err := client.WatchEvents(ctx, request)
	if err != nil {
		return false, err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return began, err
		}
		if !began {
			log.Printf("watches %s", request.GetModelRid())
			began = true
		}
		// Without events it is a bookmark: a place, and a sign of life.
		for _, event := range message.GetEvents() {
			promotion := event.GetSubject().GetPromotion()
			fmt.Println(event.GetBranch(), promotion.GetVersionNumber(), event.GetModelVersionRid(), event.GetCursor())
		}
		request.AfterCursor = proto.String(message.GetCursor())
	}
}
