/*
 * librdkafka's mock of a Kafka cluster, inside the test process: for error codes, which a real
 * broker does not give when asked. Messages go in and come out by tests/support/broker.h.
 */
#ifndef LEVEE_TESTS_BROKER_MOCK_H
#define LEVEE_TESTS_BROKER_MOCK_H

#include <librdkafka/rdkafka.h>
/* … which it needs */
#include <librdkafka/rdkafka_mock.h>

#include "tests/support/broker.h"

struct mock {
    rd_kafka_t *rk;
    rd_kafka_mock_cluster_t *cluster;
    struct broker broker; /* for broker_send and its like */
};
void mock_open(struct mock *m, int brokers);
void mock_topic(struct mock *m, const char *topic, int partitions);
void mock_close(struct mock *m);

#endif
