//go:build netns

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// A grpcServer records the calls that it gets with their messages.
type grpcServer struct {
	pause time.Duration // before each answer

	mu    sync.Mutex
	calls []string
}

func (g *grpcServer) note(method string, messages []string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, fmt.Sprintf("%s %s %v", method, digest([]byte(strings.Join(messages, "|"))), err))
}

func (g *grpcServer) log() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(slices.Values(g.calls))
}

// echo is the unary method.
func (g *grpcServer) echo(text string) *wrapperspb.StringValue {
	g.note("echo", []string{text}, nil)
	<-time.After(g.pause)
	return wrapperspb.String("echo " + text)
}

// collect takes a client's stream, and answers at its end.
func (g *grpcServer) collect(stream grpc.ServerStream) error {
	messages, err := g.all(stream, func(string) error { return nil })
	g.note("collect", messages, err)
	return errors.Join(err, stream.SendMsg(wrapperspb.String(fmt.Sprint(len(messages)))))
}

// chat answers each message of a client's stream.
func (g *grpcServer) chat(stream grpc.ServerStream) error {
	messages, err := g.all(stream, func(text string) error {
		<-time.After(g.pause)
		return stream.SendMsg(wrapperspb.String("re: " + text))
	})
	g.note("chat", messages, err)
	return err
}

func (g *grpcServer) all(stream grpc.ServerStream, each func(string) error) (messages []string, err error) {
	for {
		var m wrapperspb.StringValue
		switch err := stream.RecvMsg(&m); {
		case errors.Is(err, io.EOF):
			return messages, nil
		case err != nil:
			return messages, err
		}
		messages = append(messages, m.GetValue())
		if err := each(m.GetValue()); err != nil {
			return messages, err
		}
	}
}

// serveGRPC starts a server in ns. It counts its clients' pings, as all do: where it
// has sent nothing between some of them, it takes the client for an attacker and
// closes. Its windows are fixed, so that it pings nobody: given the online server's ping answers before it has pinged, its
// estimator has a data race.
func (s *scene) serveGRPC(ns *testnet.NS, addr string, pause time.Duration) *grpcServer {
	s.t.Helper()
	g := &grpcServer{pause: pause}
	srv := grpc.NewServer(grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(1<<20))
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: "flowtwin.Test",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Echo",
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var m wrapperspb.StringValue
				if err := decode(&m); err != nil {
					return nil, err
				}
				return g.echo(m.GetValue()), nil
			},
		}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Collect", ClientStreams: true, Handler: func(_ any, st grpc.ServerStream) error { return g.collect(st) }},
			{StreamName: "Chat", ClientStreams: true, ServerStreams: true, Handler: func(_ any, st grpc.ServerStream) error { return g.chat(st) }},
		},
	}, g)
	ln := ns.Listen(s.t, addr)
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(ln) })
	s.t.Cleanup(func() {
		srv.Stop()
		done.Wait()
	})
	return g
}

// Calls of all kinds at a time on each connection, with HPACK's state, flow
// control and its client's pings: a target that is given them out of step closes
// the connection for a protocol error.
func TestGRPC(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]time.Duration{"target as online": 0, "target slower": 30 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			online, target := s.serveGRPC(s.Lab.Online, port, 0), s.serveGRPC(s.Lab.Target, port, pause)
			copier, responder := s.copies(httpMap)
			const clients, rounds = 3, 15
			var mu sync.Mutex
			var stats traffic.Stats
			dial := counting(s.dialer(port), &stats, &mu)
			const calls = clients * rounds * 5
			arrived := func() bool { return len(target.log()) >= calls }
			var wg sync.WaitGroup
			for c := range clients {
				wg.Go(func() {
					s.grpcClient(c, rounds, func() (net.Conn, error) { return dial(c) }, func() { rig.Until(s.within(), arrived) })
				})
			}
			wg.Wait()
			rig.Until(s.within(), arrived)
			want, got := online.log(), target.log()
			if !slices.Equal(want, got) {
				t.Errorf("online had %d calls, target %d", len(want), len(got))
				for i := range min(len(want), len(got)) {
					if want[i] != got[i] {
						t.Errorf("online %s, target %s", want[i], got[i])
						break
					}
				}
			}
			report := s.end(copier, responder)
			mu.Lock() // a transport may end behind its client
			defer mu.Unlock()
			s.exact(report, stats)
			t.Logf("%d connections; %d turns, %d released by --max-hold; lag %v", stats.Connections, report.Answers.Turns, report.Answers.HeldMax, report.Lag)
		})
	}
}

// grpcClient makes calls of all kinds at a time on a connection. It leaves when
// wait returns: a server cancels calls whose client is gone, and a slower target
// would have to be given as long as max-hold for the last ones.
func (s *scene) grpcClient(c, rounds int, dial func() (net.Conn, error), wait func()) {
	conn, err := grpc.NewClient("passthrough:///online", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return dial() }))
	if err != nil {
		s.t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	var kinds sync.WaitGroup
	for k, call := range []func(context.Context, *grpc.ClientConn, string) error{unary, unary, clientStream, bidi, bidi} {
		kinds.Go(func() {
			for n := range rounds {
				if err := call(s.t.Context(), conn, fmt.Sprintf("call %d of %d.%d", n, c, k)); err != nil {
					s.t.Error(err)
					return
				}
			}
		})
	}
	kinds.Wait()
	wait()
}

func unary(ctx context.Context, conn *grpc.ClientConn, text string) error {
	return conn.Invoke(ctx, "/flowtwin.Test/Echo", wrapperspb.String(text), new(wrapperspb.StringValue))
}

func clientStream(ctx context.Context, conn *grpc.ClientConn, text string) error {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/flowtwin.Test/Collect")
	if err != nil {
		return err
	}
	for n := range 10 {
		if err := stream.SendMsg(wrapperspb.String(text + strings.Repeat(" more", n*200))); err != nil {
			return err
		}
	}
	return errors.Join(stream.CloseSend(), stream.RecvMsg(new(wrapperspb.StringValue)))
}

func bidi(ctx context.Context, conn *grpc.ClientConn, text string) error {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/flowtwin.Test/Chat")
	if err != nil {
		return err
	}
	for n := range 10 {
		if err := stream.SendMsg(wrapperspb.String(fmt.Sprintf("%s: %d", text, n))); err != nil {
			return err
		}
		if err := stream.RecvMsg(new(wrapperspb.StringValue)); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("end of the stream: %w", err)
	}
	return nil
}
