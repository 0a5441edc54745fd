package traffic

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// RedisCommand returns the command of a redis server that keeps nothing on disk
// and works in dir.
func RedisCommand(dir string) ([]string, error) {
	version, err := exec.Command("redis-server", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("redis-server: %w", err)
	}
	argv := []string{
		"redis-server", "--port", "6379", "--bind", "0.0.0.0", "::", "--protected-mode", "no",
		"--save", "", "--appendonly", "no", "--dir", dir, "--tcp-backlog", "2048",
	}
	// Since 7 DEBUG has to be allowed; older ones refuse to know the option.
	if m := regexp.MustCompile(`v=(\d+)`).FindSubmatch(version); m != nil {
		if major, _ := strconv.Atoi(string(m[1])); major >= 7 {
			argv = append(argv, "--enable-debug-command", "yes")
		}
	}
	return argv, nil
}

// RedisLoad writes to redis in pipelines: what a connection writes is under keys
// of its own or commutes, so that the result does not depend on how connections
// interleave.
type RedisLoad struct {
	Clients   int
	Pipelines int // that each client sends, one after the answers to the one before
	Depth     int // commands in a pipeline
	MaxValue  int // bytes
}

// Run runs the load. Stats.Requests counts commands.
func (l RedisLoad) Run(dial Dial) Stats {
	var mu sync.Mutex
	var stats Stats
	var wg sync.WaitGroup
	for i := range l.Clients {
		wg.Go(func() {
			s := l.client(dial, i)
			mu.Lock()
			defer mu.Unlock()
			stats.Add(s)
		})
	}
	wg.Wait()
	return stats
}

func (l RedisLoad) client(dial Dial, client int) (s Stats) {
	conn, err := dial(client)
	if err != nil {
		return Stats{Errors: 1, FirstError: err}
	}
	defer func() { _ = conn.Close() }()
	s.Connections++
	rng := rand.New(rand.NewPCG(uint64(client), 3))
	br := bufio.NewReader(conn)
	var buf bytes.Buffer
	for range l.Pipelines {
		buf.Reset()
		for range l.Depth {
			s.BodyBytes += int64(l.appendCommand(&buf, rng, client))
		}
		if _, err := conn.Write(buf.Bytes()); err != nil {
			return failed(s, err)
		}
		s.Sent += int64(buf.Len())
		for range l.Depth {
			if _, err := readReply(br); err != nil {
				return failed(s, err)
			}
			s.Requests++
		}
	}
	return s
}

func failed(s Stats, err error) Stats {
	s.Errors++
	s.FirstError = err
	return s
}

// appendCommand appends one random command and returns the size of its value.
func (l RedisLoad) appendCommand(buf *bytes.Buffer, rng *rand.Rand, client int) int {
	key := fmt.Sprintf("c%d:%d", client, rng.IntN(200))
	value := make([]byte, rng.IntN(l.MaxValue+1))
	for i := range value {
		value[i] = byte(rng.Uint32()) // binary: CR and LF among it
	}
	switch rng.IntN(6) {
	case 0:
		appendRESP(buf, "INCRBY", "shared", strconv.Itoa(rng.IntN(1000)))
		return 0
	case 1:
		appendRESP(buf, "RPUSH", "l"+key, string(value))
	case 2:
		appendRESP(buf, "HSET", "h"+key, strconv.Itoa(rng.IntN(20)), string(value))
	case 3:
		appendRESP(buf, "GET", key)
		return 0
	case 4:
		appendRESP(buf, "APPEND", key, string(value))
	default:
		appendRESP(buf, "SET", key, string(value))
	}
	return len(value)
}

func appendRESP(buf *bytes.Buffer, args ...string) {
	fmt.Fprintf(buf, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(buf, "$%d\r\n", len(a))
		buf.WriteString(a)
		buf.WriteString("\r\n")
	}
}

// readReply reads one reply: its text, elements of an array joined by spaces.
func readReply(br *bufio.Reader) (string, error) {
	line, err := br.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", errors.New("empty reply")
	}
	switch kind, rest := line[0], line[1:]; kind {
	case '+', ':':
		return rest, nil
	case '$':
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 {
			return "", err
		}
		value := make([]byte, n+2)
		_, err = io.ReadFull(br, value)
		return string(value[:n]), err
	case '*':
		n, err := strconv.Atoi(rest)
		if err != nil {
			return "", err
		}
		var all []string
		for range n {
			one, err := readReply(br)
			if err != nil {
				return "", err
			}
			all = append(all, one)
		}
		return strings.Join(all, " "), nil
	default:
		return "", fmt.Errorf("redis says %q", line)
	}
}

// A Redis is a connection to ask a server with.
type Redis struct {
	conn net.Conn
	br   *bufio.Reader
}

// NewRedis asks over conn.
func NewRedis(conn net.Conn) *Redis { return &Redis{conn, bufio.NewReader(conn)} }

// Close closes the connection.
func (r *Redis) Close() error { return r.conn.Close() }

// Ask sends one command and returns its reply.
func (r *Redis) Ask(args ...string) (string, error) {
	var buf bytes.Buffer
	appendRESP(&buf, args...)
	if _, err := r.conn.Write(buf.Bytes()); err != nil {
		return "", err
	}
	return readReply(r.br)
}

// Digest returns a digest of everything the server holds.
func (r *Redis) Digest() (string, error) { return r.Ask("DEBUG", "DIGEST") }

// CompareRedis returns the keys whose values differ.
func CompareRedis(online, target *Redis) ([]string, error) {
	a, err := online.keys()
	if err != nil {
		return nil, err
	}
	b, err := target.keys()
	if err != nil {
		return nil, err
	}
	all := make(map[string]bool)
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	var diff []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if a[k] != b[k] {
			diff = append(diff, fmt.Sprintf("key %s: digest %q online, %q at the target", k, a[k], b[k]))
		}
	}
	if len(diff) > maxDifferences {
		diff = append(diff[:maxDifferences:maxDifferences], fmt.Sprintf("… %d keys in all", len(diff)))
	}
	return diff, nil
}

func (r *Redis) keys() (map[string]string, error) {
	names, err := r.Ask("KEYS", "*")
	if err != nil {
		return nil, err
	}
	m := make(map[string]string)
	for k := range strings.FieldsSeq(names) {
		if m[k], err = r.Ask("DEBUG", "DIGEST-VALUE", k); err != nil {
			return nil, err
		}
	}
	return m, nil
}
