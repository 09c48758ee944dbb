package main

import "time"

// A plan says how long and how often everything is measured.
type plan struct {
	warm        time.Duration // before anything counts
	pairs       int           // of throughput, per habit
	pairSpan    time.Duration // each half of a pair
	rollSpan    time.Duration
	idle        []int         // connections that are idle in a roll
	movePairs   int           // rolls with them, and without
	moveRolls   int           // under load
	users       int           // of the chat
	userRolls   int           // with them: a successor is killed in every fourth
	phases      int           // pairs of latency phases, per habit
	phaseSpan   time.Duration // each half
	kills       int
	killEvery   time.Duration
	idleSpan    time.Duration
	manyWorkers int
	asks        int // of the status of many workers
	commands    int // of each command
	spawns      int
	starts      int           // of each program that is seen to be ready
	faultSpan   time.Duration // of each way in which Redis fails
	held        int           // connections whose count is followed
	hosts       int           // of the simulated fleet
	fleetSpan   time.Duration // of each measurement of a fleet
}

func full() plan {
	return plan{
		warm:        300 * time.Millisecond,
		pairs:       20,
		pairSpan:    2 * time.Second,
		rollSpan:    time.Minute,
		idle:        []int{10_000, 100_000},
		movePairs:   5,
		moveRolls:   50,
		users:       1000,
		userRolls:   20,
		phases:      5,
		phaseSpan:   10 * time.Second,
		kills:       20,
		killEvery:   3 * time.Second,
		idleSpan:    20 * time.Second,
		manyWorkers: 200,
		asks:        100,
		commands:    50,
		spawns:      40,
		starts:      20,
		faultSpan:   time.Minute,
		held:        5000,
		hosts:       10_000,
		fleetSpan:   10 * time.Second,
	}
}

func brief() plan {
	return plan{
		warm:        200 * time.Millisecond,
		pairs:       3,
		pairSpan:    500 * time.Millisecond,
		rollSpan:    6 * time.Second,
		idle:        []int{1000},
		movePairs:   2,
		moveRolls:   5,
		users:       200,
		userRolls:   4,
		phases:      1,
		phaseSpan:   3 * time.Second,
		kills:       2,
		killEvery:   3 * time.Second,
		idleSpan:    4 * time.Second,
		manyWorkers: 40,
		asks:        20,
		commands:    10,
		spawns:      8,
		starts:      3,
		faultSpan:   12 * time.Second,
		held:        500,
		hosts:       500,
		fleetSpan:   3 * time.Second,
	}
}
