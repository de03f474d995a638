/*
 * Sends the lines of a file to a Kafka topic, one message a line, as far as it is told:
 *
 *   demo_producer BROKERS TOPIC PARTITIONS FILE        stdin: "LINES\n" (send up to this many in
 * all) → stdout: "LINES\n" when delivered
 *
 * A line ends at \n, which is not sent; what follows the last \n is a line if it is not empty.
 */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long undelivered;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk;
    (void)opaque;
    if (m->err) {
        fprintf(stderr, "demo_producer: %s\n", rd_kafka_err2str(m->err));
        undelivered++;
    }
}

static rd_kafka_t *connect_to(const char *brokers)
{
    char err[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    rd_kafka_conf_set(conf, "bootstrap.servers", brokers, NULL, 0);
    rd_kafka_conf_set(conf, "enable.idempotence", "true", NULL, 0);
    rd_kafka_conf_set(conf, "message.max.bytes", "50000000", NULL, 0);
    rd_kafka_conf_set(conf, "linger.ms", "2", NULL, 0);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, err, sizeof err);
    if (!rk) {
        fprintf(stderr, "demo_producer: %s\n", err);
    }
    return rk;
}

static int send_line(rd_kafka_t *rk, const char *topic, int partition, const char *line, size_t len)
{
    for (;;) {
        rd_kafka_resp_err_t e =
            rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
                              RD_KAFKA_V_VALUE((void *)(size_t)line, len),
                              RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (e != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : -1;
        }
        rd_kafka_poll(rk, 50);
    }
}

int main(int argc, char **argv)
{
    FILE *f = argc == 5 ? fopen(argv[4], "rb") : NULL;
    rd_kafka_t *rk = f ? connect_to(argv[1]) : NULL;
    int partitions = rk ? atoi(argv[3]) : 0;
    unsigned long sent = 0, upto;
    char *line = NULL;
    size_t cap = 0;

    if (!rk || partitions < 1) {
        fputs("usage: demo_producer BROKERS TOPIC PARTITIONS FILE\n", stderr);
        return 1;
    }
    while (scanf("%lu", &upto) == 1) {
        ssize_t n = 0;
        while (sent < upto && (n = getline(&line, &cap, f)) >= 0) {
            size_t len = (size_t)n - (n > 0 && line[n - 1] == '\n');
            if (send_line(rk, argv[2], (int)(sent % (unsigned long)partitions), line, len)) {
                return 1;
            }
            sent++;
            rd_kafka_poll(rk, 0);
        }
        if (rd_kafka_flush(rk, 30000) || undelivered) {
            return 1;
        }
        printf("%lu\n", sent);
        fflush(stdout);
    }
    rd_kafka_destroy(rk);
    free(line);
    fclose(f);
    return 0;
}
