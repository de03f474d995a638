/*
 * Sends text files to a Kafka topic, one message a line, no faster than somebody counts their
 * words.
 *
 *     demo_producer --brokers B --topic T [--partitions N] [--window BYTES] [--create] [--repeat]
 *                   FILE...
 *
 * Why it paces itself: librdkafka's mock broker keeps 5 MiB a partition and drops the oldest. What
 * the reader has taken cannot be asked of the mock, but how many words it has counted can be read
 * from its output. Of all words sent, U are not counted yet. A line in whose partition more than U
 * words follow (or lie in it) must have been read, since a partition is read in order. Everything
 * else may still be waiting, and of that each partition gets at most `window` bytes.
 *
 * Commands on stdin, each answered by one line "LINES DELIVERED WORDS REPEATS BLOCKED END" on
 * stdout:
 *     counted N   so many words have been counted
 *     upto N      no more than N lines in all (at first 0)
 *     idle        the reader is known to have read everything (lines without words prove nothing)
 *     finish      with --repeat: do not begin the text again
 * BLOCKED: 1 when only the window holds the next line back. END: 1 when all lines were sent and
 * delivered. Ends when stdin ends; exit code 1 when a message could not be delivered.
 */
#include <librdkafka/rdkafka.h>

#include <getopt.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PARTITIONS_MAX 64
#define MESSAGE_COST   80 /* bytes a message takes beside its payload, at worst a batch header */
#define MESSAGE_MAX    50000000
#define LINES_AT_ONCE  1000 /* between two looks at stdin */

/* Lines of one partition that nothing proves read, oldest first, in a ring. */
struct waiting {
    struct line {
        uint32_t bytes, words;
    } * ring;
    size_t first, count, cap;
    uint64_t bytes, words;
};

static struct {
    const char *brokers, *topic;
    int partitions;
    uint64_t window;
    bool create, repeat;
    char **files;
    int file_count;
} opt = {.partitions = 4, .window = 3u << 20};

static struct {
    rd_kafka_t *rk;
    rd_kafka_topic_t *topic;
    struct waiting waiting[PARTITIONS_MAX];
    FILE *file;
    int next_file;
    char *line; /* read and not sent yet: `have` */
    size_t cap, len;
    uint32_t line_words;
    bool have, blocked, finish, end;
    uint64_t lines, delivered, words, counted, upto, repeats;
    int failed;
} me;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "demo_producer: %s: %s\n", what, why);
    exit(1);
}

static uint32_t count_words(const char *text, size_t len)
{
    static const bool space[256] = {
        [' '] = 1, ['\t'] = 1, ['\n'] = 1, ['\v'] = 1, ['\f'] = 1, ['\r'] = 1};
    uint32_t words = 0;
    bool inside = false;

    for (size_t i = 0; i < len; i++) {
        bool now = !space[(unsigned char)text[i]];
        words += now && !inside;
        inside = now;
    }
    return words;
}

/* ---- what may still wait in the broker ---- */

static void drop_proven(struct waiting *w)
{
    uint64_t uncounted = me.words - me.counted;

    while (w->count > 0 && w->words > uncounted) {
        w->bytes -= w->ring[w->first].bytes;
        w->words -= w->ring[w->first].words;
        w->first = (w->first + 1) % w->cap;
        w->count--;
    }
}

static void add_line(struct waiting *w, uint32_t bytes, uint32_t words)
{
    if (w->count == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 4096;
        struct line *ring = malloc(cap * sizeof *ring);
        if (!ring) {
            fail("lines that wait", "no memory");
        }
        for (size_t i = 0; i < w->count; i++) {
            ring[i] = w->ring[(w->first + i) % w->cap];
        }
        free(w->ring);
        w->ring = ring;
        w->cap = cap;
        w->first = 0;
    }
    w->ring[(w->first + w->count++) % w->cap] = (struct line){bytes, words};
    w->bytes += bytes;
    w->words += words;
}

/* A partition with room, in turn; -1: none. A partition that holds nothing takes any line. */
static int find_room(uint64_t bytes)
{
    for (int i = 0; i < opt.partitions; i++) {
        int p = (int)((me.lines + (uint64_t)i) % (uint64_t)opt.partitions);
        struct waiting *w = &me.waiting[p];
        drop_proven(w);
        if (w->count == 0 || w->bytes + bytes <= opt.window) {
            return p;
        }
    }
    return -1;
}

/* ---- the text ---- */

/* Makes sure that the next line is in me.line; false: there is none. */
static bool next_line(void)
{
    while (!me.have) {
        if (!me.file) {
            if (me.next_file == opt.file_count) {
                me.repeats++;
                me.next_file = 0;
                if (!opt.repeat || me.finish || me.lines == 0) {
                    me.end = true;
                    return false;
                }
            }
            me.file = opt.files ? fopen(opt.files[me.next_file], "rb") : NULL;
            if (!me.file) {
                perror("a text file");
                exit(1);
            }
            me.next_file++;
        }
        ssize_t n = getline(&me.line, &me.cap, me.file);
        if (n < 0) {
            fclose(me.file);
            me.file = NULL;
            continue;
        }
        me.len = (size_t)n - (me.line[n - 1] == '\n');
        if (me.len > MESSAGE_MAX) {
            fail("the text", "a line is longer than 50,000,000 bytes");
        }
        me.line_words = count_words(me.line, me.len);
        me.have = true;
    }
    return true;
}

/* Sends one line if it may go now. */
static bool send_one(void)
{
    me.blocked = false;
    if (me.end || me.lines >= me.upto || !next_line()) {
        return false;
    }
    uint64_t bytes = me.len + MESSAGE_COST;
    int partition = find_room(bytes);
    if (partition < 0) {
        me.blocked = true;
        return false;
    }
    if (rd_kafka_produce(me.topic, partition, RD_KAFKA_MSG_F_COPY, me.line, me.len, NULL, 0,
                         NULL)) {
        rd_kafka_resp_err_t code = rd_kafka_last_error();
        if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            fail("produce", rd_kafka_err2str(code));
        }
        return false;
    }
    add_line(&me.waiting[partition], (uint32_t)bytes, me.line_words);
    me.words += me.line_words;
    me.lines++;
    me.have = false;
    return true;
}

/* ---- the broker ---- */

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *arg)
{
    (void)rk;
    (void)arg;
    if (m->err) {
        fail("a message was not delivered", rd_kafka_err2str(m->err));
    }
    me.delivered++;
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char text[256];

    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) != RD_KAFKA_CONF_OK) {
        fail(name, text);
    }
}

/* A broker that is not ours to kill needs the topic made; the mock has it already. */
static void create_topic(void)
{
    char text[256];
    rd_kafka_NewTopic_t *topic =
        rd_kafka_NewTopic_new(opt.topic, opt.partitions, 1, text, sizeof text);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(me.rk);
    size_t n = 0;

    if (!topic) {
        fail(opt.topic, text);
    }
    rd_kafka_CreateTopics(me.rk, &topic, 1, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 30000);
    if (!event || rd_kafka_event_error(event)) {
        fail(opt.topic, event ? rd_kafka_event_error_string(event) : "the broker does not answer");
    }
    const rd_kafka_topic_result_t **results =
        rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
    if (n != 1 || rd_kafka_topic_result_error(results[0])) {
        fail(opt.topic, n == 1 ? rd_kafka_topic_result_error_string(results[0]) : "no result");
    }
    rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewTopic_destroy(topic);
}

static void connect_broker(void)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    set(conf, "bootstrap.servers", opt.brokers);
    set(conf, "enable.idempotence", "true"); /* a retry must not become a second record */
    set(conf, "message.max.bytes", "60000000");
    set(conf, "queue.buffering.max.messages", "100000");
    set(conf, "linger.ms", "2");
    set(conf, "log_level", "0");
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    me.rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    if (!me.rk) {
        fail(opt.brokers, text);
    }
    if (opt.create) {
        create_topic();
    }
    me.topic = rd_kafka_topic_new(me.rk, opt.topic, NULL);
}

/* ---- commands ---- */

static void obey(const char *command)
{
    unsigned long long n;

    if (sscanf(command, "counted %llu", &n) == 1 && n <= me.words) {
        me.counted = n;
    } else if (sscanf(command, "upto %llu", &n) == 1) {
        me.upto = n;
    } else if (strcmp(command, "idle") == 0) {
        for (int p = 0; p < opt.partitions; p++) {
            struct waiting *w = &me.waiting[p];
            w->first = w->count = 0;
            w->bytes = w->words = 0;
        }
    } else if (strcmp(command, "finish") == 0) {
        me.finish = true;
    } else {
        fail("not a command, or more counted than sent", command);
    }
    printf("%llu %llu %llu %llu %d %d\n", (unsigned long long)me.lines,
           (unsigned long long)me.delivered, (unsigned long long)me.words,
           (unsigned long long)me.repeats, me.blocked, me.end && me.delivered == me.lines);
    fflush(stdout);
}

/* Takes what is there of stdin; false at its end. */
static bool read_commands(int timeout_ms)
{
    static char text[4096];
    static size_t len;
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};

    if (poll(&in, 1, timeout_ms) <= 0) {
        return true;
    }
    ssize_t n = read(STDIN_FILENO, text + len, sizeof text - 1 - len);
    if (n <= 0) {
        return false;
    }
    len += (size_t)n;
    for (char *end; (end = memchr(text, '\n', len));) {
        *end = '\0';
        obey(text);
        len -= (size_t)(end + 1 - text);
        memmove(text, end + 1, len);
    }
    return true;
}

static void usage(void)
{
    fputs("usage: demo_producer --brokers B --topic T [--partitions N] [--window BYTES] [--create]"
          " [--repeat] FILE...\n",
          stderr);
    exit(1);
}

static void parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"brokers", 1, NULL, 'b'}, {"topic", 1, NULL, 't'},  {"partitions", 1, NULL, 'p'},
        {"window", 1, NULL, 'w'},  {"create", 0, NULL, 'c'}, {"repeat", 0, NULL, 'r'},
        {NULL, 0, NULL, 0}};

    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'b':
            opt.brokers = optarg;
            break;
        case 't':
            opt.topic = optarg;
            break;
        case 'p':
            opt.partitions = atoi(optarg);
            break;
        case 'w':
            opt.window = strtoull(optarg, NULL, 10);
            break;
        case 'c':
            opt.create = true;
            break;
        case 'r':
            opt.repeat = true;
            break;
        default:
            usage();
        }
    }
    opt.files = argv + optind;
    opt.file_count = argc - optind;
    if (!opt.brokers || !opt.topic || opt.partitions < 1 || opt.partitions > PARTITIONS_MAX ||
        opt.file_count < 1) {
        usage();
    }
}

int main(int argc, char **argv)
{
    bool sending = false;

    parse(argc, argv);
    connect_broker();
    while (read_commands(sending ? 0 : 2)) {
        sending = false;
        for (int i = 0; i < LINES_AT_ONCE && send_one(); i++) {
            sending = true;
        }
        rd_kafka_poll(me.rk, 0);
    }
    rd_kafka_purge(me.rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
                              RD_KAFKA_PURGE_F_NON_BLOCKING);
    _exit(0); /* the reader of our answers is gone: nobody waits for what is still on its way */
}
