// Package epoll waits for descriptors through the runtime's poller, but only for
// those events that somebody wants.
//
// A descriptor that the runtime polls itself wakes the process at each event,
// waited for or not: a copier at a low rate would spend most of its CPU on being
// woken for packets that it can as well take in passing. A [Waiter] puts an epoll
// instance of its own between the two (epoll(7): an instance can be polled by
// another one), in which events are watched for, or not, at will.
package epoll

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Waiter waits for one descriptor, and for an alarm. None of its methods makes a
// system call that the runtime's scheduler is told of, or allocates.
//
// One goroutine waits; the other methods are for one goroutine at a time, but for
// Wake, which is for any.
type Waiter struct {
	fd, timer int
	instance  int // of file
	file      *os.File
	raw       syscall.RawConn

	watching bool
	alarm    time.Time
	event    unix.EpollEvent // scratch, here so that it does not escape each time
	spec     unix.ItimerSpec
}

// New returns a waiter for fd, which it borrows until Close. It does not watch yet.
func New(fd int) (_ *Waiter, err error) {
	w := &Waiter{fd: fd, timer: -1}
	if w.instance, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err = unix.SetNonblock(w.instance, true); err != nil { // the sign for os that it can be polled
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(w.instance))
	}
	w.file = os.NewFile(uintptr(w.instance), "epoll instance")
	if err := w.fill(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *Waiter) fill() (err error) {
	if w.raw, err = w.file.SyscallConn(); err != nil {
		return err
	}
	if w.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	w.event = unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(w.timer)}
	if err := unix.EpollCtl(w.instance, unix.EPOLL_CTL_ADD, w.timer, &w.event); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	w.event = unix.EpollEvent{Fd: int32(w.fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(w.instance, unix.EPOLL_CTL_ADD, w.fd, &w.event))
}

// Watch says whether what comes to the descriptor ends a wait. What has come
// already may do so, too, or not: the kernel does not tell of an event again that it
// has told of before (epoll's ready list, in which it stays). Look for it.
func (w *Waiter) Watch(on bool) error {
	if on == w.watching {
		return nil
	}
	w.event = unix.EpollEvent{Fd: int32(w.fd)}
	if on {
		w.event.Events = unix.EPOLLIN
	}
	if err := unix.EpollCtl(w.instance, unix.EPOLL_CTL_MOD, w.fd, &w.event); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	w.watching = on
	return nil
}

// Watching reports what Watch was told last.
func (w *Waiter) Watching() bool { return w.watching }

// Alarm makes a wait end in d, once. It replaces an alarm set before.
func (w *Waiter) Alarm(d time.Duration) error {
	w.alarm = time.Now().Add(d)
	w.spec.Value = unix.NsecToTimespec(int64(max(d, 1))) // 0 would switch it off
	return os.NewSyscallError("timerfd_settime", unix.TimerfdSettime(w.timer, 0, &w.spec, nil))
}

// Rung reports whether the time of the last alarm has come.
func (w *Waiter) Rung() bool { return !w.alarm.IsZero() && !time.Now().Before(w.alarm) }

// Wait calls done, and again at each event or alarm, until it returns true. What
// came before the first call ends no wait: done looks for it itself, for the alarm
// by Rung. An error is os.ErrDeadlineExceeded, or that the waiter is closed.
func (w *Waiter) Wait(done func(uintptr) bool) error { return w.raw.Read(done) }

// SetDeadline says when a wait ends with os.ErrDeadlineExceeded.
func (w *Waiter) SetDeadline(t time.Time) error { return w.file.SetReadDeadline(t) }

// Wake ends a wait, and all later ones until the next SetDeadline, with
// os.ErrDeadlineExceeded.
func (w *Waiter) Wake() {
	// It can fail for a closed file only, at which nobody waits.
	_ = w.file.SetReadDeadline(time.Unix(1, 0))
}

// Close ends a wait for good and frees what the waiter has; the descriptor is its
// owner's to close.
func (w *Waiter) Close() error {
	err := w.file.Close()
	if w.timer >= 0 {
		err = errors.Join(err, os.NewSyscallError("close", unix.Close(w.timer)))
	}
	return err
}
