package testnet

import (
	"errors"
	"fmt"
	"strings"
)

// Addresses of a Lab. Each subnet's router has .1 and ::1; the clients have
// Clients addresses of each family, from ClientsFrom on.
const (
	OnlineAddr  = "10.71.2.2"
	OnlineAddr6 = "fd71:2::2"
	TargetAddr  = "10.71.3.2"
	TargetAddr6 = "fd71:3::2"

	Clients     = 16
	ClientsFrom = 10
)

// ClientAddr returns the i-th client's address, counted modulo Clients.
func ClientAddr(i int) string { return fmt.Sprintf("10.71.1.%d", ClientsFrom+i%Clients) }

// ClientAddr6 returns the i-th client's IPv6 address, counted modulo Clients.
func ClientAddr6(i int) string { return fmt.Sprintf("fd71:1::%d", ClientsFrom+i%Clients) }

// LabConfig says how a Lab's hosts are joined.
type LabConfig struct {
	ClientWire *WireConfig // between clients and router, nil: a veth pair
	TunnelWire *WireConfig // between router and target, nil: a veth pair
}

// A Lab is the network that the product is made for: clients, the online server
// and the target host on three subnets, joined by a router. Each host's device is
// called eth0; the router's are eth0 to the clients, eth1 to the online server and
// eth2 to the target.
//
//	clients ── router ── online
//	             └────── target
type Lab struct {
	Clients, Router, Online, Target *NS

	ClientWire, TunnelWire *Wire // nil where the config says so
}

// NewLab lays the network out.
func NewLab(cfg LabConfig) (*Lab, error) {
	l := &Lab{}
	if err := l.build(cfg); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close takes the network away.
func (l *Lab) Close() error {
	var errs []error
	for _, w := range []*Wire{l.ClientWire, l.TunnelWire} {
		if w != nil {
			errs = append(errs, w.Close())
		}
	}
	for _, ns := range []*NS{l.Clients, l.Online, l.Target, l.Router} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}

func (l *Lab) build(cfg LabConfig) (err error) {
	for name, ns := range map[string]**NS{
		"clients": &l.Clients, "router": &l.Router, "online": &l.Online, "target": &l.Target,
	} {
		if *ns, err = Create(Unique(name)); err != nil {
			return err
		}
	}
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := l.Router.Sysctl(key, "1"); err != nil {
			return err
		}
	}
	if l.ClientWire, err = l.attach(l.Clients, 1, cfg.ClientWire); err != nil {
		return err
	}
	if _, err = l.attach(l.Online, 2, nil); err != nil {
		return err
	}
	if l.TunnelWire, err = l.attach(l.Target, 3, cfg.TunnelWire); err != nil {
		return err
	}
	for i := range Clients {
		if err := l.Clients.AddAddr("eth0", ClientAddr(i)+"/24"); err != nil {
			return err
		}
		if err := l.Clients.AddAddr("eth0", ClientAddr6(i)+"/64"); err != nil {
			return err
		}
	}
	return nil
}

// attach joins a host to the router as the n-th subnet, with its default routes.
func (l *Lab) attach(host *NS, n int, wire *WireConfig) (w *Wire, err error) {
	dev := fmt.Sprintf("eth%d", n-1)
	at := func(i int) string { return fmt.Sprintf("10.71.%d.%d/24", n, i) }
	if wire != nil {
		w, err = ConnectWire(host, "eth0", at(2), l.Router, dev, at(1), *wire)
	} else {
		err = Connect(host, "eth0", at(2), l.Router, dev, at(1))
	}
	if err != nil {
		return w, err
	}
	at6 := func(i int) string { return fmt.Sprintf("fd71:%d::%d/64", n, i) }
	return w, errors.Join(
		host.AddAddr("eth0", at6(2)),
		l.Router.AddAddr(dev, at6(1)),
		host.Route("default", strings.TrimSuffix(at(1), "/24")),
		host.Route("default", strings.TrimSuffix(at6(1), "/64")),
	)
}
