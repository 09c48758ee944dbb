package main

import (
	"context"
	crand "crypto/rand"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// crowd is all users.
type crowd struct {
	options
	token   string // of this crowd: tells its messages from others'
	seen    figures
	running sync.WaitGroup // of users' goroutines
	sayRate atomic.Int64   // messages in 1000 s

	mu     sync.Mutex
	wanted int
	next   int // number of the next user
	users  []*user
}

func newCrowd(o options) *crowd {
	c := &crowd{options: o, token: crand.Text(), wanted: o.users}
	c.setSay(o.say)
	return c
}

// grow starts users in batches, at the rate, for as long as some are missing.
func (c *crowd) grow(ctx context.Context) {
	batch := min(float64(c.batch), max(1, c.rate))
	for tick := time.NewTicker(time.Duration(batch / c.rate * float64(time.Second))); ; {
		c.mu.Lock()
		for n := min(int(batch), c.wanted-len(c.users)); n > 0 && ctx.Err() == nil; n-- {
			u := &user{crowd: c, number: c.next}
			u.ctx, u.cancel = context.WithCancel(context.Background())
			c.next++
			c.users = append(c.users, u)
			c.running.Go(u.live)
		}
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// setUsers says how many users there are to be. Who is too many leaves, the newest first.
func (c *crowd) setUsers(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = n
	for len(c.users) > n {
		last := len(c.users) - 1
		c.users[last].leave()
		c.users = c.users[:last]
	}
}

// leave has a share of those who are connected to a host leave for good.
func (c *crowd) leave(host string, percent float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var there, others []*user
	for _, u := range c.users {
		if u.host() == host {
			there = append(there, u)
		} else {
			others = append(others, u)
		}
	}
	rand.Shuffle(len(there), func(i, j int) { there[i], there[j] = there[j], there[i] })
	n := int(float64(len(there))*percent/100 + 0.5)
	for _, u := range there[:n] {
		u.leave()
	}
	c.users = append(others, there[n:]...)
	c.wanted -= n
}

func (c *crowd) setSay(rate float64) { c.sayRate.Store(int64(rate * 1000)) }

// sayAll has users say something, at the rate of all together.
func (c *crowd) sayAll(ctx context.Context) {
	const step = 20 * time.Millisecond
	due := 0.0
	last := time.Now()
	for tick := time.NewTicker(step); ; {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			due += float64(c.sayRate.Load()) / 1000 * now.Sub(last).Seconds()
			last = now
		}
		for ; due >= 1; due-- {
			if u := c.someone(); u != nil {
				u.say()
			}
		}
	}
}

// someone is a user, most likely one who is connected.
func (c *crowd) someone() (u *user) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 10 {
		if len(c.users) == 0 {
			return nil
		}
		if u = c.users[rand.IntN(len(c.users))]; u.host() != "" {
			return u
		}
	}
	return u
}

// hosts counts the open connections of each host.
func (c *crowd) hosts() (users, open int, hosts map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	hosts = map[string]int{}
	for _, u := range c.users {
		if host := u.host(); host != "" {
			hosts[host]++
			open++
		}
	}
	return len(c.users), open, hosts
}
