// Threads that bind to one port, again and again, while signals arrive. Prints how many
// binds there were, how many returned EINTR, how many failed otherwise or left their
// socket elsewhere, and whether signals came.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static struct sockaddr_in at;
static int rounds;
static atomic_int done, interrupted, wrong, signals;

static void count(int sig) { signals++; }

static void *binds(void *unused) {
  for (int i = 0; rounds == 0 || i < rounds; i++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in is = {0};
    socklen_t size = sizeof is;
    if (bind(fd, (struct sockaddr *)&at, sizeof at) == 0) {
      if (getsockname(fd, (struct sockaddr *)&is, &size) != 0 || is.sin_port != at.sin_port) wrong++;
    } else if (errno == EINTR) {
      interrupted++;
    } else {
      wrong++;
    }
    close(fd);
    if (done++ == 0) puts("begun"), fflush(stdout);
  }
  return NULL;
}

// storm PORT ROUNDS [restart|interrupt]: rounds 0 is for ever
int main(int argc, char **argv) {
  at.sin_family = AF_INET;
  at.sin_port = htons(atoi(argv[1]));
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  rounds = atoi(argv[2]);
  if (argc > 3) {
    struct sigaction action = {.sa_handler = count, .sa_flags = strcmp(argv[3], "restart") == 0 ? SA_RESTART : 0};
    struct itimerval every = {{0, 300}, {0, 300}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
  }
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, binds, NULL);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  printf("%d %d %d %d\n", done, interrupted, wrong, signals > 0);
  return 0;
}
