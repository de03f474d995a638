/* Private to the TCP source: connections (tcp.c) and what their bytes mean (tcp_lines.c). */
#ifndef LEVEE_CONNECTORS_TCP_H
#define LEVEE_CONNECTORS_TCP_H

#include <pthread.h>
#include <sys/socket.h>

#include "runtime/context.h"

struct tcp_connection {
    int fd;
    struct buf in; /* received; bytes before `used` are done with */
    size_t used;
    bool full;  /* the inlet had no room: nothing is read until it has */
    bool ended; /* the other side has closed; what is buffered is still taken */
    char producer[LEVEE_PRODUCER_MAX + 1]; /* acknowledged: after HELLO */
    uint64_t connection;
    uint64_t taken, taken_ticket; /* newest number taken, and its ticket */
    uint64_t told;                /* newest number acknowledged */
    struct {
        uint64_t number, ticket;
    } waiting[64]; /* numbers on their way to the disk: at most one per ticket is kept */
    size_t waiting_count;
};

struct tcp {
    char host[256], port[32];
    char path[108]; /* of a Unix socket; empty: host and port */
    char name[300]; /* either, for people */
    struct io *io;
    bool listen, acknowledged;
    enum levee_framing framing;
    uint32_t line_max, connections_max;
    levee_inlet *inlet;
    pthread_t thread;
    bool running;
    _Atomic bool stop;
    _Atomic unsigned bound;
    _Atomic uint64_t durable;
    int listener;
    struct tcp_connection **connections;
    size_t count, cap;
};

/* Whole records into the inlet; false: the connection ends (an error was answered or reported). */
bool tcp_take_lines(struct tcp *t, struct tcp_connection *c);
/* ACKs for what has become durable; false: the connection ends. */
bool tcp_acknowledge(struct tcp *t, struct tcp_connection *c);

#endif
