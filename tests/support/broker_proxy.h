/*
 * A proxy between Kafka clients and a broker, which loses, forges and kills at an exact request.
 *
 *     static struct proxy proxy;                                       // in main
 *     proxy_start(&proxy, &broker);
 *     proxy_arm(&proxy, &(struct proxy_rule){.api = PROXY_END_TXN, .nth = 3,
 *                                            .action = PROXY_LOSE_REPLY});
 *
 * Which reply a process misses is a matter of luck when something is killed from outside. Here it
 * is exact: the n-th request of a kind since the rule was armed is carried out by the broker and
 * its answer lost, or never reaches it, or is answered with an error of our choice, or the process
 * that asked dies at that very moment.
 *
 * The broker is restarted to advertise the proxy's port, so that no client finds a way around it;
 * it has one node. The proxy is a process of its own, which ends with the one that started it. One
 * rule at a time, and it strikes once. Requests and replies are frames of a length and, in front of
 * a request, its kind, version and number; replies come in the order of the requests. That is all
 * the proxy knows of the protocol, besides where the error lies in the replies that it forges, in
 * the versions that librdkafka 2.0.2 asks for (a test asserts that a rule has struck).
 */
#ifndef LEVEE_TESTS_BROKER_PROXY_H
#define LEVEE_TESTS_BROKER_PROXY_H

#include "tests/support/broker.h"

enum proxy_api {
    PROXY_PRODUCE = 0,
    PROXY_FETCH = 1,
    PROXY_LIST_OFFSETS = 2,
    PROXY_METADATA = 3,
    PROXY_OFFSET_FETCH = 9,
    PROXY_FIND_COORDINATOR = 10,
    PROXY_API_VERSIONS = 18,
    PROXY_INIT_PRODUCER_ID = 22,
    PROXY_ADD_PARTITIONS_TO_TXN = 24,
    PROXY_ADD_OFFSETS_TO_TXN = 25,
    PROXY_END_TXN = 26,
    PROXY_TXN_OFFSET_COMMIT = 28,
    PROXY_APIS = 100
};

enum proxy_action {
    PROXY_LOSE_REQUEST = 1, /* the connection breaks instead of it */
    PROXY_LOSE_REPLY,       /* the broker has done it; the connection breaks */
    PROXY_STALL,            /* the broker has done it; the connection stays, and silent */
    PROXY_KILL_AT_REQUEST,  /* SIGKILL to the victim; the broker never hears of it */
    PROXY_KILL_AT_REPLY,    /* the same when the broker has done it */
    PROXY_FORGE,            /* the broker has done it; the reply says `error` */
    PROXY_HIDE,             /* of API_VERSIONS, every time: the broker does not know kind `error` */
    PROXY_ANSWER            /* the reply says `error`, and the broker has not heard of it. Of
                               INIT_PRODUCER_ID, ADD_OFFSETS_TO_TXN, END_TXN */
};

struct proxy_rule {
    enum proxy_api api;
    unsigned nth; /* from 1 */
    enum proxy_action action;
    int error; /* a code of Kafka's protocol */
};

struct proxy_shared;
struct proxy {
    struct proxy_shared *shared;
    char address[64];
    pid_t pid;
};

/* Restarts the broker; broker_address is the proxy's from then on. BROKER_OK also if there is no
 * broker. */
enum broker_code proxy_start(struct proxy *p, struct broker *b);
void proxy_stop(struct proxy *p);
void proxy_arm(struct proxy *p, const struct proxy_rule *rule);
/* Whom a KILL rule kills: it waits until this is said. */
void proxy_victim(struct proxy *p, pid_t pid);
/* The rule, if it has not struck, never will. */
void proxy_disarm(struct proxy *p);
bool proxy_struck(const struct proxy *p);
/* Requests of a kind since the last arming. */
unsigned proxy_seen(const struct proxy *p, enum proxy_api api);

#endif
