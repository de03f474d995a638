#include "tests/support/broker_mock.h"

#include <stdio.h>

static void no_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk;
    (void)level;
    (void)facility;
    (void)text;
}

void mock_open(struct mock *m, int brokers)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    *m = (struct mock){0};
    rd_kafka_conf_set_log_cb(conf, no_log);
    m->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    ck_assert_msg(m->rk != NULL, "%s", text);
    m->cluster = rd_kafka_mock_cluster_new(m->rk, brokers);
    ck_assert_ptr_nonnull(m->cluster);
    (void)snprintf(m->broker.address, sizeof m->broker.address, "%s",
                   rd_kafka_mock_cluster_bootstraps(m->cluster));
}

void mock_topic(struct mock *m, const char *topic, int partitions)
{
    ck_assert_int_eq(rd_kafka_mock_topic_create(m->cluster, topic, partitions, 1), 0);
}

void mock_close(struct mock *m)
{
    rd_kafka_mock_cluster_destroy(m->cluster);
    rd_kafka_destroy(m->rk);
}
