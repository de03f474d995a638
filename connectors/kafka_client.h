/*
 * What everything here that talks to Kafka needs of the client library, source or sink: settings
 * with errors that name them, clients that print nothing, questions that are asked patiently.
 */
#ifndef LEVEE_KAFKA_CLIENT_H
#define LEVEE_KAFKA_CLIENT_H

#include <librdkafka/rdkafka.h>

#include "io/io.h"

#define KAFKA_ASK_FIRST_MS 150 /* the first wait for an answer: bounds how long a stop takes */

struct kafka_setting {
    const char *name, *value;
};

/* INVALID, naming setting and reason. */
int kafka_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct levee_error *err);
int kafka_set_list(rd_kafka_conf_t *conf, const struct kafka_setting *list, size_t n,
                   struct levee_error *err);
/* "name=value" of a user, unless the name is in `refused` (ended by NULL). */
int kafka_set_user(rd_kafka_conf_t *conf, const char *property, const char *const *refused,
                   struct levee_error *err);
/* No lines on stderr: what matters comes as an error. */
void kafka_set_quiet(rd_kafka_conf_t *conf);

/* Ends a client without leaving its group. false: it did not end within two seconds and was left
 * behind (clients before 2.6.1 never end once a topic they read was deleted); nothing of its owner
 * is used by it any more. Blocks; not from a lane. */
bool kafka_destroy(struct io *io, rd_kafka_t *rk);

/* A client; takes conf. INVALID with the client's reason. */
int kafka_client_new(rd_kafka_type_t type, rd_kafka_conf_t *conf, rd_kafka_t **ret,
                     struct levee_error *err);
/* Asks for one topic; with no error *ret_partitions is how many it has. The client knows the topic
 * afterwards: a producer's first record for it need not wait. */
rd_kafka_resp_err_t kafka_ask_topic(rd_kafka_t *rk, const char *topic, int timeout_ms,
                                    int32_t *ret_partitions);
/* The next wait after an answer that did not come: longer for a connected broker that is slow, the
 * same for one that cannot be reached. */
int kafka_ask_longer(int timeout_ms, rd_kafka_resp_err_t code);
/* The broker says that we may not: no time will change that. */
bool kafka_forbidden(rd_kafka_resp_err_t code);
/* No such topic or partition, or a name that cannot be one. */
bool kafka_unknown(rd_kafka_resp_err_t code);

/* A copy of a NULL-ended list; false: no memory (what was copied is in ret). NULL: an empty list.
 */
bool kafka_copy_strings(const char *const *list, char ***ret, size_t *ret_count);
void kafka_free_strings(char **list, size_t count);

#endif
