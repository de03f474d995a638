/*
 * The TCP source over real sockets on the loopback: the acknowledged protocol of docs/tcp.md across
 * a restart (an orderly stop without draining, which recovery treats as a process death), its
 * refusals by name, and a plain client run to its end.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "levee/levee.h"
#include "tests/support/suite.h"

struct job {
    char directory[256];
    struct levee_tcp_options tcp;
    struct levee_tcp_options other; /* a second receiver, in a union with the first */
    bool stop_at_end;
    levee_context *ctx;
    levee_stream *source, *second;
    _Atomic int told; /* code of the last error that the listener heard */
};

static int one(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)in;
    (void)arg;
    return levee_emit_i64(out, levee_text("lines"), 1);
}

static int ignore(levee_batch *batch, const struct levee_token *token, void *arg,
                  struct levee_error *err)
{
    (void)batch;
    (void)token;
    (void)arg;
    (void)err;
    return LEVEE_OK;
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    j->source = levee_tcp_source(ctx, "lines", &j->tcp);
    levee_stream *both = j->source;
    if (j->other.address || j->other.path) {
        j->second = levee_tcp_source(ctx, "other", &j->other);
        both = levee_union(((levee_stream *[]){j->source, j->second}), 2);
    }
    levee_stream *n = levee_update_state_by_key(levee_map(both, one, NULL), "n", NULL,
                                                levee_update_sum_i64, NULL);
    (void)levee_foreach_batch(n, "see", ignore, NULL);
    return levee_context_status(ctx, err);
}

static void told(void *arg, const char *uid, const struct levee_error *err)
{
    struct job *j = arg;

    (void)uid;
    j->told = err->code;
}

static void up(struct job *j)
{
    static const struct levee_listener listener = {.version = 1, .receiver_error = told};
    struct levee_error err = {0};
    char line[1024];
    struct levee_options o = {.directory = j->directory,
                              .batch_interval_ms = 10,
                              .segment_bytes = 1 << 20,
                              .stop_at_end = j->stop_at_end,
                              .listener = &listener,
                              .listener_arg = j,
                              .program_id = "t"};

    ck_assert_msg(levee_get_or_create(&j->ctx, &o, build, j, &err) == 0 &&
                      levee_start(j->ctx, &err) == 0,
                  "%s", levee_error_format(&err, line, sizeof line));
}

static int total(void *arg, struct levee_slice key, struct levee_slice value)
{
    (void)key;
    *(int64_t *)arg = levee_i64(value);
    return 0;
}

static int64_t drained_total(struct job *j)
{
    struct levee_error err = {0};
    int64_t n = 0;

    ck_assert_int_eq(levee_drain(j->ctx, 0, &err), LEVEE_OK);
    ck_assert_int_eq(levee_await(j->ctx, &err), LEVEE_OK);
    ck_assert_int_eq(levee_state_each(j->ctx, "n", total, &n, &err), LEVEE_OK);
    levee_free(j->ctx);
    return n;
}

static void begin(struct job *j)
{
    const char *tmp = getenv("TMPDIR");

    (void)snprintf(j->directory, sizeof j->directory, "%s/levee-tcp-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(j->directory));
}

/* A client: sends text, reads until `want` has come (or the other side closes); returns all that
 * came. */
static int dial(uint16_t port)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void hear(int fd, const char *want)
{
    char got[4096] = "";
    size_t n = 0;

    while (!strstr(got, want)) {
        ssize_t r = recv(fd, got + n, sizeof got - 1 - n, 0);
        ck_assert_msg(r > 0, "wanted \"%s\", heard \"%s\"", want, got);
        n += (size_t)r;
        got[n] = 0;
    }
}

START_TEST(acknowledged_lines_are_counted_once_across_a_restart)
{
    struct job j = {.tcp = {.address = "127.0.0.1:0", .listen = true, .acknowledged = true}};

    begin(&j);
    up(&j);
    int fd = dial(levee_tcp_port(j.source));
    say(fd, "HELLO p\n");
    hear(fd, "OK 0\n");
    say(fd, "1 one\n2 two\r\n3 \n");
    hear(fd, "ACK 3\n");
    (void)close(fd);
    levee_free(j.ctx); /* no drain */
    up(&j);
    fd = dial(levee_tcp_port(j.source));
    say(fd, "HELLO p\n");
    hear(fd, "OK 3\n");
    say(fd, "2 two\n3 \n4 four\n"); /* two of them again */
    hear(fd, "ACK 4\n");
    (void)close(fd);
    ck_assert_int_eq(drained_total(&j), 4);
}
END_TEST

START_TEST(refusals_are_named_on_the_wire)
{
    struct job j = {.tcp = {.address = "127.0.0.1:0", .listen = true, .acknowledged = true}};

    begin(&j);
    up(&j);
    int fd = dial(levee_tcp_port(j.source));
    say(fd, "1 one\n");
    hear(fd, "ERROR PROTOCOL");
    (void)close(fd);
    fd = dial(levee_tcp_port(j.source));
    say(fd, "HELLO q\n7 seven\n");
    hear(fd, "ERROR PRODUCER_UNKNOWN");
    (void)close(fd);
    fd = dial(levee_tcp_port(j.source));
    say(fd, "HELLO r\n1 a\n2 b\n5 e\n");
    hear(fd, "missing 3 to 4");
    (void)close(fd);
    fd = dial(levee_tcp_port(j.source));
    say(fd, "HELLO s\n1 a\n");
    hear(fd, "ACK 1\n");
    int second = dial(levee_tcp_port(j.source));
    say(second, "HELLO s\n");
    hear(second, "OK 1\n");
    say(fd, "2 b\n"); /* the older connection */
    hear(fd, "ERROR PRODUCER_STALE");
    (void)close(fd);
    (void)close(second);
    ck_assert_int_eq(drained_total(&j), 3);
}
END_TEST

static void *serve_text(void *arg)
{
    int listener = *(int *)arg, fd = accept(listener, NULL, NULL);

    for (int i = 0; i < 5000 && fd >= 0; i++) {
        (void)send(fd, "some words\n", 11, MSG_NOSIGNAL);
    }
    (void)send(fd, "last, without newline", 21, MSG_NOSIGNAL);
    (void)close(fd);
    return NULL;
}

START_TEST(a_plain_client_runs_to_the_end_of_its_server)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    char address[64];
    pthread_t thread;
    struct levee_error err = {0};
    int64_t lines = 0;

    ck_assert_int_eq(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&a, &n), 0);
    (void)snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(a.sin_port));
    ck_assert_int_eq(pthread_create(&thread, NULL, serve_text, &listener), 0);
    struct job j = {.tcp = {.address = address}, .stop_at_end = true};
    begin(&j);
    up(&j);
    ck_assert_int_eq(levee_await(j.ctx, &err), LEVEE_OK);
    ck_assert_int_eq(levee_state_each(j.ctx, "n", total, &lines, &err), LEVEE_OK);
    ck_assert_int_eq(lines, 5001);
    levee_free(j.ctx);
    (void)pthread_join(thread, NULL);
    (void)close(listener);
}
END_TEST

/* ---- frames, Unix sockets, several receivers ---- */

static struct sockaddr_un unix_address(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    ck_assert_uint_lt(strlen(path), sizeof a.sun_path);
    memcpy(a.sun_path, path, strlen(path) + 1);
    return a;
}

static int dial_unix(const char *path)
{
    struct sockaddr_un a = unix_address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void send_all(int fd, const void *bytes, size_t n)
{
    ck_assert_int_eq(send(fd, bytes, n, MSG_NOSIGNAL), (ssize_t)n);
}

/* Waits, with the context's own wait, for what the receiver does on a thread of its own. */
static void wait_received(struct job *j, uint64_t n)
{
    struct levee_metrics m = {0};

    for (int i = 0; i < 4000 && m.records_received < n; i++) {
        ck_assert_int_eq(levee_await_for(j->ctx, 5, NULL), LEVEE_ETIMEOUT);
        levee_context_metrics(j->ctx, &m);
    }
    ck_assert_uint_eq(m.records_received, n);
}

static void wait_told(struct job *j, int code)
{
    for (int i = 0; i < 4000 && j->told != code; i++) {
        ck_assert_int_eq(levee_await_for(j->ctx, 5, NULL), LEVEE_ETIMEOUT);
    }
    ck_assert_int_eq(j->told, code);
}

START_TEST(records_with_a_length_before_them_hold_any_byte)
{
    struct job j = {
        .tcp = {
            .address = "127.0.0.1:0", .listen = true, .framing = LEVEE_LENGTH, .line_max = 70000}};
    static uint8_t big[4 + 70000] = {0, 1, 0x11, 0x70}; /* 70,000 */

    begin(&j);
    up(&j);
    int fd = dial(levee_tcp_port(j.source));
    send_all(fd, "\0\0\0\3a\nb\0\0\0\0\0\0", 13); /* two, and a part of a length */
    wait_received(&j, 2);
    send_all(fd, "\0\1x", 3);
    wait_received(&j, 3);
    send_all(fd, big, sizeof big);
    wait_received(&j, 4);
    (void)close(fd);
    fd = dial(levee_tcp_port(j.source)); /* one byte more than allowed */
    send_all(fd, "\0\0\0\1y\0\1\x11\x71", 9);
    wait_told(&j, LEVEE_ERECORD_TOO_LONG);
    wait_received(&j, 5);                     /* what came before it counts */
    ck_assert_int_eq(recv(fd, big, 1, 0), 0); /* closed */
    (void)close(fd);
    fd = dial(levee_tcp_port(j.source));
    send_all(fd, "\0\0\0\2z", 5);
    (void)close(fd);
    wait_told(&j, LEVEE_EPROTOCOL); /* ended inside a record */
    ck_assert_int_eq(drained_total(&j), 5);
}
END_TEST

START_TEST(a_unix_socket_serves_both_protocols_and_its_name_does_not_outlive_it)
{
    char path[300];
    struct stat st;
    struct job j = {.tcp = {.path = path, .listen = true, .acknowledged = true}};

    begin(&j);
    (void)snprintf(path, sizeof path, "%s/socket", j.directory);
    (void)snprintf(j.directory + strlen(j.directory), 8, "/state");
    int dead = socket(AF_UNIX, SOCK_STREAM, 0); /* a name that nobody listens on any more */
    struct sockaddr_un a = unix_address(path);
    ck_assert_int_eq(bind(dead, (struct sockaddr *)&a, sizeof a), 0);
    (void)close(dead);
    up(&j);
    int fd = dial_unix(path);
    say(fd, "HELLO p\n1 one\n2 two\n");
    hear(fd, "ACK 2\n");
    struct job second = {.tcp = {.path = path, .listen = true}};
    begin(&second);
    up(&second); /* the path is in use: it waits */
    wait_told(&second, LEVEE_ECONNECTION);
    levee_free(second.ctx);
    (void)close(fd);
    ck_assert_int_eq(drained_total(&j), 2);
    ck_assert_int_ne(stat(path, &st), 0);
}
END_TEST

static void *serve_unix(void *arg)
{
    int listener = *(int *)arg, fd = accept(listener, NULL, NULL);

    for (int i = 0; i < 1000 && fd >= 0; i++) {
        (void)send(fd, "\0\0\0\5words", 9, MSG_NOSIGNAL);
    }
    (void)close(fd);
    return NULL;
}

START_TEST(a_client_of_a_unix_socket_and_a_listener_in_one_union)
{
    char path[300];
    struct job j = {.other = {.address = "127.0.0.1:0", .listen = true}};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    pthread_t thread;

    begin(&j);
    (void)snprintf(path, sizeof path, "%s/server", j.directory);
    struct sockaddr_un a = unix_address(path);
    (void)snprintf(j.directory + strlen(j.directory), 8, "/state");
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, serve_unix, &listener), 0);
    j.tcp = (struct levee_tcp_options){.path = path, .framing = LEVEE_LENGTH};
    up(&j);
    int fd = dial(levee_tcp_port(j.second));
    say(fd, "one\ntwo\nthree");
    (void)close(fd);
    wait_received(&j, 1003);
    ck_assert_int_eq(drained_total(&j), 1003);
    (void)pthread_join(thread, NULL);
    (void)close(listener);
}
END_TEST

static int build_only(levee_context *ctx, void *arg, struct levee_error *err)
{
    (void)levee_tcp_source(ctx, "lines", arg);
    return levee_context_status(ctx, err);
}

START_TEST(options_that_make_no_sense_are_refused)
{
    struct levee_tcp_options bad[] = {
        {.address = NULL},
        {.address = "h:1", .path = "p"},
        {.path = ""},
        {.address = "h:1", .acknowledged = true},
        {.address = "h:1", .listen = true, .acknowledged = true, .framing = LEVEE_LENGTH},
        {.address = "h:1", .framing = (enum levee_framing)7},
    };
    struct job j = {0};

    begin(&j);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct levee_error err = {0};
        struct levee_options o = {.directory = j.directory};
        ck_assert_int_eq(levee_get_or_create(&j.ctx, &o, build_only, &bad[i], &err),
                         LEVEE_EINVALID);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tcp_source");
    TCase *t = tcase_create("wire");

    tcase_set_timeout(t, 30);
    tcase_add_test(t, acknowledged_lines_are_counted_once_across_a_restart);
    tcase_add_test(t, refusals_are_named_on_the_wire);
    tcase_add_test(t, a_plain_client_runs_to_the_end_of_its_server);
    tcase_add_test(t, records_with_a_length_before_them_hold_any_byte);
    tcase_add_test(t, a_unix_socket_serves_both_protocols_and_its_name_does_not_outlive_it);
    tcase_add_test(t, a_client_of_a_unix_socket_and_a_listener_in_one_union);
    tcase_add_test(t, options_that_make_no_sense_are_refused);
    suite_add_tcase(s, t);
    return suite_main(s);
}
