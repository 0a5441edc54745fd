package main

import (
	"context"
	"errors"
	"time"
)

// memory is what 5,000 connections that have asked once cost while they idle.
func (b *bench) memory(ctx context.Context) error {
	const conns = 5000
	var copierMB, sessionKB []float64
	for range b.runs {
		c, s, err := b.runMemory(ctx, conns)
		if err != nil {
			return err
		}
		copierMB, sessionKB = append(copierMB, c), append(sessionKB, s)
	}
	b.add("copier RSS at 5,000 flows", "MB", "64", "32", copierMB)
	b.add("responder RSS per idle session", "KB", "10", "6", sessionKB)
	return nil
}

func (b *bench) runMemory(ctx context.Context, conns int) (copierMB, sessionKB float64, err error) {
	online, target, err := b.servers(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, online.stop(), target.stop()) }()
	responder, copier, err := b.programs(ctx)
	if err != nil {
		return 0, 0, err
	}
	before := residentKB(responder.pid())
	done := make(chan error, 1)
	go func() {
		_, err := b.lab.load(ctx, b.lab.clients, load{addr: onlineAddr + ":80", conns: conns, idle: true, path: "/index.html", duration: 12 * time.Second})
		done <- err
	}()
	<-time.After(9 * time.Second)
	copierMB = float64(residentKB(copier.pid())) / 1024
	sessionKB = float64(residentKB(responder.pid())-before) / float64(conns)
	return copierMB, sessionKB, errors.Join(<-done, copier.stop(), responder.stop())
}
