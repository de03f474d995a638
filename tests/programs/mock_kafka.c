/*
 * A Kafka broker for tests, inside one process: librdkafka's mock cluster with the topics asked
 * for.
 *
 *     mock_kafka --topic NAME [--topic NAME2 ...] [--partitions N] [--brokers N]
 *
 * Prints the bootstrap servers as one line, then runs until stdin ends or SIGTERM/SIGINT comes, so
 * that it never outlives the script that started it. Its messages live in memory: the mock keeps a
 * few megabytes per partition and drops the oldest beyond that.
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TOPICS_MAX 16

static int stop_pipe[2];

static void on_signal(int sig)
{
    (void)sig;
    (void)!write(stop_pipe[1], "", 1);
}

static void wait_for_end(void)
{
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                            {.fd = stop_pipe[0], .events = POLLIN}};
    char bytes[256];

    for (;;) {
        if (poll(fds, 2, -1) < 0) {
            continue; /* a signal: its byte is in the pipe */
        }
        if (fds[1].revents) {
            return;
        }
        if (fds[0].revents && read(STDIN_FILENO, bytes, sizeof bytes) <= 0) {
            return;
        }
    }
}

static int usage(void)
{
    fputs("usage: mock_kafka --topic NAME [--topic NAME ...] [--partitions N] [--brokers N]\n",
          stderr);
    return 1;
}

static int serve(char *const *topics, int topic_count, int partitions, int brokers)
{
    char text[256];
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), text, sizeof text);
    rd_kafka_mock_cluster_t *cluster = rk ? rd_kafka_mock_cluster_new(rk, brokers) : NULL;

    if (!cluster) {
        fputs("mock_kafka: cannot start the cluster\n", stderr);
        return 1;
    }
    for (int i = 0; i < topic_count; i++) {
        rd_kafka_resp_err_t code =
            rd_kafka_mock_topic_create(cluster, topics[i], partitions, brokers < 3 ? brokers : 3);
        if (code) {
            fprintf(stderr, "mock_kafka: topic %s: %s\n", topics[i], rd_kafka_err2str(code));
            return 1;
        }
    }
    puts(rd_kafka_mock_cluster_bootstraps(cluster));
    fflush(stdout);
    wait_for_end();
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(rk);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"topic", required_argument, NULL, 't'},
                                            {"partitions", required_argument, NULL, 'p'},
                                            {"brokers", required_argument, NULL, 'b'},
                                            {NULL, 0, NULL, 0}};
    struct sigaction action = {.sa_handler = on_signal};
    char *topics[TOPICS_MAX];
    int topic_count = 0, partitions = 1, brokers = 1;

    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 't' && topic_count < TOPICS_MAX) {
            topics[topic_count++] = optarg;
        } else if (c == 'p') {
            partitions = atoi(optarg);
        } else if (c == 'b') {
            brokers = atoi(optarg);
        } else {
            return usage();
        }
    }
    if (topic_count == 0 || partitions < 1 || brokers < 1 || optind != argc) {
        return usage();
    }
    if (pipe(stop_pipe) != 0) {
        perror("mock_kafka: pipe");
        return 1;
    }
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    return serve(topics, topic_count, partitions, brokers);
}
