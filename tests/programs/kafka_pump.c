/*
 * kafka_pump BROKERS TOPIC=PARTITIONS…: creates the topics, says "ready", then sends every line of
 * stdin as a message without key to the first of them, through any number of broker deaths. Ends
 * with 0 when the broker has them all.
 */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CREATE_MS 30000
#define TOPICS    8

static rd_kafka_t *client(const char *brokers)
{
    /* One request at a time: docs/kafka.md, "Delivered" without an offset. */
    static const char *const settings[][2] = {{"enable.idempotence", "true"},
                                              {"max.in.flight", "1"},
                                              {"message.timeout.ms", "0"},
                                              {"linger.ms", "5"},
                                              {"reconnect.backoff.max.ms", "500"}};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char text[256];

    if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers, text, sizeof text)) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        if (rd_kafka_conf_set(conf, settings[i][0], settings[i][1], text, sizeof text)) {
            return NULL;
        }
    }
    rd_kafka_conf_set_log_cb(conf, NULL); /* brokers that die are what the demo is about */
    return rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
}

static int create(rd_kafka_t *rk, char *const *specs, int n)
{
    rd_kafka_NewTopic_t *topics[TOPICS] = {NULL};
    rd_kafka_queue_t *q = rd_kafka_queue_new(rk);
    char text[256];
    size_t count = 0;
    int failed = 0;

    for (int i = 0; i < n && i < TOPICS; i++) {
        char *eq = strchr(specs[i], '=');
        int partitions = eq ? atoi(eq + 1) : 1;
        if (eq) {
            *eq = '\0';
        }
        topics[i] = rd_kafka_NewTopic_new(specs[i], partitions, 1, text, sizeof text);
    }
    rd_kafka_CreateTopics(rk, topics, (size_t)n, NULL, q);
    rd_kafka_event_t *ev = rd_kafka_queue_poll(q, CREATE_MS);
    const rd_kafka_CreateTopics_result_t *r = ev ? rd_kafka_event_CreateTopics_result(ev) : NULL;
    const rd_kafka_topic_result_t **results =
        r ? rd_kafka_CreateTopics_result_topics(r, &count) : NULL;
    failed = (int)count != n;
    for (size_t i = 0; i < count; i++) {
        failed = failed || rd_kafka_topic_result_error(results[i]);
    }
    rd_kafka_NewTopic_destroy_array(topics, (size_t)n);
    if (ev) {
        rd_kafka_event_destroy(ev);
    }
    rd_kafka_queue_destroy(q);
    return failed;
}

int main(int argc, char **argv)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;

    if (argc < 3 || argc > TOPICS + 2) {
        (void)fputs("usage: kafka_pump BROKERS TOPIC=PARTITIONS...\n", stderr);
        return 2;
    }
    rd_kafka_t *rk = client(argv[1]);
    if (!rk || create(rk, argv + 2, argc - 2)) {
        (void)fputs("kafka_pump: cannot create the topics\n", stderr);
        return 1;
    }
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, argv[2], NULL);
    (void)puts("ready");
    (void)fflush(stdout);
    while ((n = getline(&line, &room, stdin)) > 0) {
        size_t len = (size_t)n - (line[n - 1] == '\n');
        while (rd_kafka_produce(topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, line, len, NULL,
                                0, NULL) &&
               rd_kafka_last_error() == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            (void)rd_kafka_poll(rk, 10);
        }
        (void)rd_kafka_poll(rk, 0);
    }
    while (rd_kafka_flush(rk, 1000) == RD_KAFKA_RESP_ERR__TIMED_OUT) {
    }
    free(line);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(rk);
    return 0;
}
