package traffic

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// nginxConf is the configuration of an nginx that answers everything with 600
// bytes, what other.example is asked with 1,800, and logs what tells requests and connections apart. dir is its own.
const nginxConf = `
user root;
worker_processes 1;
daemon off;
master_process off;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 16384; }
http {
	log_format flow '$connection $connection_requests $request_length $request_method $request_uri';
	access_log %[1]s/access.log flow buffer=64k flush=100ms;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	keepalive_requests %[3]d;
	client_max_body_size 0;
	server {
		listen 80 backlog=8192;
		listen [::]:80 backlog=8192;
		location / { return 200 "%[2]s"; }
	}
	server {
		listen 80;
		server_name other.example;
		location / { return 200 "%[2]s%[2]s%[2]s"; }
	}
}
`

// NginxCommand writes a configuration for nginx to dir, which has to exist, and
// returns the command that runs it. A connection is closed after so many requests,
// 0: never.
func NginxCommand(dir string, requests int) ([]string, error) {
	if requests == 0 {
		requests = 100_000_000
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(nginxConf, dir, strings.Repeat("x", defaultAnswer), requests)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return []string{"nginx", "-c", conf, "-e", filepath.Join(dir, "error.log")}, nil
}

// NginxLog reads what an nginx with dir's configuration has logged so far.
func NginxLog(dir string) (Log, error) {
	f, err := os.Open(filepath.Join(dir, "access.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var log Log
	index := make(map[string]int)
	br := bufio.NewReaderSize(f, 1<<16)
	for {
		line, err := br.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return log, nil // the beginning of a line that is being written is left out
		}
		if err != nil {
			return nil, err
		}
		fields := strings.Fields(line)
		if len(fields) != 5 {
			return nil, fmt.Errorf("access log line %q", line)
		}
		size, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("access log line %q: %w", line, err)
		}
		i, known := index[fields[0]]
		if !known {
			i = len(log)
			index[fields[0]] = i
			log = append(log, nil)
		}
		log[i] = append(log[i], Request{Method: fields[3], Path: fields[4], Bytes: size})
		if n := strconv.Itoa(len(log[i])); n != fields[1] {
			return nil, fmt.Errorf("access log line %q: expected request %s of this connection", line, n)
		}
	}
}
