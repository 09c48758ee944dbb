// Package redisconfig is how an app finds Redis: the settings, their checks and
// Redis's URLs. It never connects, so that the master can import it without linking
// a Redis client.
package redisconfig
