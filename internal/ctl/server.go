package ctl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a server.
const (
	maxLine  = 64 << 10               // of a request or response
	maxConns = 16                     // further ones wait in the kernel's queue
	patience = 10 * time.Second       // with a client that says nothing, or does not read
	hurry    = 500 * time.Millisecond // the same while others wait
)

// A Server answers at a socket.
type Server struct {
	table Table
	log   *slog.Logger
	l     *net.UnixListener
	ctx   context.Context //nolint:containedctx // of all operations, ended by Close
	stop  context.CancelFunc
	done  sync.WaitGroup
	room  chan struct{} // holds a value for each connection

	doing sync.Mutex // held while an operation runs

	mu      sync.Mutex
	conns   map[net.Conn]bool // mu; whether it was hurried
	closed  bool              // mu
	crowded bool              // mu; all room is taken
}

// Listen opens the socket at path, for its owner alone. A socket that a process
// left behind is replaced; one at which somebody listens, or a file of another
// kind, is refused. Close removes it.
func Listen(ctx context.Context, path string, table Table, log *slog.Logger) (*Server, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	s := &Server{table: table, log: log, l: l, room: make(chan struct{}, maxConns), conns: make(map[net.Conn]bool)}
	// Operations go on while the command is being told to end.
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Go(s.accept)
	return s, nil
}

func listen(path string) (l *net.UnixListener, err error) {
	// Two processes that find the same dead socket must not remove each other's.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, os.NewSyscallError("flock", err)
	}
	if err := removeDead(path); err != nil {
		return nil, err
	}
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Whoever was quicker than this is turned away by who they are.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeDead removes a socket at which nobody listens.
func removeDead(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is no socket")
	}
	conn, err := net.DialTimeout("unix", path, patience)
	switch {
	case err == nil:
		_ = conn.Close()
		return errors.New("another process listens there")
	case !errors.Is(err, syscall.ECONNREFUSED):
		return err
	}
	return os.Remove(path)
}

// accept takes connections until the server is closed.
func (s *Server) accept() {
	for {
		select {
		case s.room <- struct{}{}:
		default:
			// The next one may be waiting already, and may want to stop the command.
			s.crowd(true)
			select {
			case s.room <- struct{}{}:
				s.crowd(false)
			case <-s.ctx.Done():
				return
			}
		}
		conn, err := s.l.AcceptUnix()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.log.Warn("control socket is deaf", "err", err)
			}
			return
		}
		if !s.enter(conn) {
			return
		}
		s.done.Go(func() {
			defer s.leave(conn)
			s.serve(conn)
		})
	}
}

// crowd says whether others wait for room: then idle clients have less time.
func (s *Server) crowd(waits bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crowded = waits; !waits || s.closed {
		return
	}
	for conn, hurried := range s.conns {
		if !hurried {
			s.conns[conn] = true
			_ = conn.SetReadDeadline(time.Now().Add(hurry))
		}
	}
}

// enter notes a connection, so that Close can end it, and reports false when the
// server is closed.
func (s *Server) enter(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return false
	}
	s.conns[conn] = false
	return true
}

func (s *Server) leave(conn net.Conn) {
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
	_ = conn.Close()
	<-s.room
}

// serve answers one client until it has no more requests.
func (s *Server) serve(conn *net.UnixConn) {
	if err := entitled(conn); err != nil {
		s.log.Warn("control refused", "err", err)
		_ = write(conn, response{Error: err.Error()})
		return
	}
	lines := bufio.NewReaderSize(conn, maxLine)
	for s.wait(conn) {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			_ = write(conn, response{Error: fmt.Sprintf("request of more than %d bytes", maxLine)})
		}
		if err != nil {
			return
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			_ = write(conn, response{Error: "request: " + err.Error()})
			return
		}
		if err := write(conn, s.answer(r)); err != nil {
			return
		}
	}
}

// wait gives the client time for its next request, and reports false when the
// server is closed.
func (s *Server) wait(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := patience
	if s.crowded {
		limit = hurry
	}
	s.conns[conn] = s.crowded
	return !s.closed && conn.SetReadDeadline(time.Now().Add(limit)) == nil
}

func (s *Server) answer(r request) response {
	s.doing.Lock()
	defer s.doing.Unlock()
	resp := s.table.call(s.ctx, r)
	if op := s.table[r.Op]; op.Do != nil && !op.Reads {
		attrs := []any{"op", strings.Join(append([]string{r.Op}, r.Args...), " ")}
		if resp.Error != "" {
			attrs = append(attrs, "err", resp.Error)
		}
		s.log.Info("control", attrs...)
	}
	return resp
}

// entitled reports why the client may not ask: it is another user than we are,
// and not root.
func entitled(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return err
	}
	if int(cred.Uid) != os.Geteuid() && cred.Uid != 0 {
		return fmt.Errorf("user %d may not control this process", cred.Uid)
	}
	return nil
}

func write(conn net.Conn, r response) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err = conn.Write(append(b, '\n'))
	return err
}

// Close removes the socket and ends all connections; an operation that runs is
// told by its ctx, and still answered. It may be called more than once.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for conn := range s.conns {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	}
	s.mu.Unlock()
	s.stop()
	err := s.l.Close()
	s.done.Wait()
	return err
}
