// bind(2) and listen(2) by the i386 calls of an x86-64 program: by their own numbers, and
// by socketcall(2). The addresses of a program that is linked -no-pie fit into 32 bits.
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
  return (int)result;
}

static struct sockaddr_in at;
static uint32_t args[3];

int main(int argc, char **argv) {
  at.sin_family = AF_INET;
  at.sin_port = htons(atoi(argv[1]));
  at.sin_addr.s_addr = htonl(0x7f090908);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  printf("%ld ", call(361, fd, (long)&at, sizeof at)); // bind
  printf("%ld\n", call(363, fd, 5, 0));                // listen
  close(fd);
  fd = socket(AF_INET, SOCK_STREAM, 0);
  args[0] = fd, args[1] = (uint32_t)(uintptr_t)&at, args[2] = sizeof at;
  printf("%ld ", call(102, 2, (long)args, 0)); // socketcall, SYS_BIND
  args[1] = 5;
  printf("%ld\n", call(102, 4, (long)args, 0)); // SYS_LISTEN
  return 0;
}
