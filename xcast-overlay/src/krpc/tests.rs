use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::id::Id;

fn id(octet: u8) -> Id {
    Id::new([octet; 20])
}

fn query(query: Query) -> Message {
    Message {
        transaction: Bytes::from_static(b"aa"),
        version: None,
        extension: None,
        kind: Kind::Query {
            sender: Id::new(*b"abcdefghij0123456789"),
            read_only: false,
            query,
        },
    }
}

fn response(response: Response) -> Message {
    Message {
        transaction: Bytes::from_static(b"aa"),
        version: None,
        extension: None,
        kind: Kind::Response {
            sender: Id::new(*b"abcdefghij0123456789"),
            external: None,
            response: Box::new(response),
        },
    }
}

/// The examples of BEP 5, octet for octet.
#[test]
fn examples_of_bep_5() {
    let target = Id::new(*b"mnopqrstuvwxyz123456");
    let token = Bytes::from_static(b"aoeusnth");
    let cases: [(Message, &str); 6] = [
        (
            query(Query::Ping),
            "d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe",
        ),
        (
            query(Query::FindNode { target, want: None }),
            "d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe",
        ),
        (
            query(Query::GetPeers {
                info_hash: target,
                want: None,
            }),
            "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe",
        ),
        (
            response(Response {
                values: vec![
                    "97.120.106.101:11893".parse().expect("an address"),
                    "105.100.104.116:28269".parse().expect("an address"),
                ],
                token: Some(token),
                ..Response::default()
            }),
            "d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re",
        ),
        (
            response(Response::default()),
            "d1:rd2:id20:abcdefghij0123456789e1:t2:aa1:y1:re",
        ),
        (
            Message {
                transaction: Bytes::from_static(b"aa"),
                version: None,
                extension: None,
                kind: Kind::Error(QueryError::new(
                    ErrorCode::Generic,
                    "A Generic Error Ocurred",
                )),
            },
            "d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee",
        ),
    ];
    for (message, text) in cases {
        assert_eq!(message.encode().datagram(0), text);
        assert_eq!(
            Message::decode(&Bytes::from(text)).as_ref(),
            Ok(&message),
            "{text}"
        );
    }
}

#[test]
fn an_announcement_with_and_without_a_port() {
    let text = "d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe";
    let message = Message::decode(&Bytes::from(text)).expect("the example of BEP 5");
    let Kind::Query {
        query: Query::AnnouncePeer { port, token, .. },
        ..
    } = message.kind
    else {
        panic!("{message:?}")
    };
    assert_eq!((port, token.as_ref()), (None, &b"aoeusnth"[..]));
    let text = text
        .replace("12:implied_porti1e", "")
        .replace("i6881e", "i0e");
    assert_eq!(refusal(&text), ErrorCode::Protocol);
}

#[test]
fn each_receiver_gets_its_own_token() {
    let message = query(Query::Put {
        item: Item::immutable("4:here"),
        cas: None,
        token: Bytes::new(),
    });
    let tokens: Vec<Bytes> = vec!["one".into(), "twotwotwotwo".into()];
    let body = message.encode_for(&tokens);
    for (at, token) in tokens.iter().enumerate() {
        let read = Message::decode(&body.datagram(at)).expect("a message");
        let Kind::Query {
            query: Query::Put { token: read, .. },
            ..
        } = read.kind
        else {
            panic!("{read:?}")
        };
        assert_eq!(&read, token);
    }
}

fn refusal(text: &str) -> ErrorCode {
    match Message::decode(&Bytes::from(text.to_owned())) {
        Err(DecodeError::Query { error, transaction }) => {
            assert_eq!(transaction, "aa");
            error.code
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn queries_that_are_answered_with_an_error() {
    for (text, code) in [
        // Keys out of order, at the top and in the arguments.
        (
            "d1:q4:ping1:ad2:id20:abcdefghij0123456789e1:t2:aa1:y1:qe",
            ErrorCode::Protocol,
        ),
        (
            "d1:ad6:target20:mnopqrstuvwxyz1234562:id20:abcdefghij0123456789e1:q9:find_node1:t2:aa1:y1:qe",
            ErrorCode::Protocol,
        ),
        ("d1:q4:ping1:t2:aa1:y1:qe", ErrorCode::Protocol),
        ("d1:ale1:q4:ping1:t2:aa1:y1:qe", ErrorCode::Protocol),
        (
            "d1:ad2:id19:bcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe",
            ErrorCode::Protocol,
        ),
        (
            "d1:ad2:id20:abcdefghij0123456789e1:t2:aa1:y1:qe",
            ErrorCode::Protocol,
        ),
        (
            "d1:ad2:id20:abcdefghij0123456789e1:q4:pong1:t2:aa1:y1:qe",
            ErrorCode::MethodUnknown,
        ),
        (
            "d1:ad2:id20:abcdefghij0123456789e1:q9:find_node1:t2:aa1:y1:qe",
            ErrorCode::Protocol,
        ),
        (
            "d1:ad2:id20:abcdefghij01234567891:k3:abc3:seqi1e5:token1:a1:v1:be1:q3:put1:t2:aa1:y1:qe",
            ErrorCode::Protocol,
        ),
        (
            "d1:ad2:id20:abcdefghij01234567895:token1:ae1:q3:put1:t2:aa1:y1:qe",
            ErrorCode::Protocol,
        ),
    ] {
        assert_eq!(refusal(text), code, "{text}");
    }
}

#[test]
fn what_is_no_message_is_not_answered() {
    for text in [
        "",
        "i1e",
        "d1:y1:qe",
        "d1:t2:aae",
        "d1:t2:aa1:y1:xe",
        "d1:t2:aa1:y1:re",
        "de",
    ] {
        assert!(
            matches!(
                Message::decode(&Bytes::from(text)),
                Err(DecodeError::NotKrpc(_) | DecodeError::Bencode(_))
            ),
            "{text}"
        );
    }
}

fn any_id() -> impl Strategy<Value = Id> {
    any::<[u8; 20]>().prop_map(Id::new)
}

fn any_bytes(max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn any_want() -> impl Strategy<Value = Option<Want>> {
    prop::option::of(any::<(bool, bool)>().prop_map(|(ipv4, ipv6)| Want { ipv4, ipv6 }))
}

fn any_item(salted: bool) -> impl Strategy<Value = Item> {
    let salt = if salted {
        any_bytes(64).boxed()
    } else {
        Just(Bytes::new()).boxed()
    };
    let signed = (any::<[u8; 32]>(), salt, any::<i64>(), any::<[u8; 32]>()).prop_map(
        |(key, salt, seq, half)| Signed {
            key,
            salt,
            seq,
            signature: std::array::from_fn(|at| half[at % 32]),
        },
    );
    (any_bytes(50), prop::option::of(signed)).prop_map(|(octets, signed)| {
        let mut value = format!("{}:", octets.len()).into_bytes();
        value.extend_from_slice(&octets);
        Item {
            value: value.into(),
            signed,
        }
    })
}

fn any_query() -> impl Strategy<Value = Query> {
    prop_oneof![
        Just(Query::Ping),
        (any_id(), any_bytes(41)).prop_map(|(target, after)| Query::GetEntries { target, after }),
        (
            prop::collection::vec(any_id(), 1..9),
            any_bytes(60),
            any_bytes(20)
        )
            .prop_map(|(keys, entry, token)| Query::PutEntry { keys, entry, token }),
        prop::collection::vec(any_id(), 1..=MAX_TARGETS)
            .prop_map(|targets| Query::GetMany { targets }),
        (any_id(), any_want()).prop_map(|(target, want)| Query::FindNode { target, want }),
        (any_id(), any_want()).prop_map(|(info_hash, want)| Query::GetPeers { info_hash, want }),
        (any_id(), prop::option::of(1u16..), any_bytes(20)).prop_map(|(info_hash, port, token)| {
            Query::AnnouncePeer {
                info_hash,
                port,
                token,
            }
        }),
        (any_id(), any::<Option<i64>>(), any_want()).prop_map(|(target, seq, want)| Query::Get {
            target,
            seq,
            want
        }),
        (any_item(true), any::<Option<i64>>(), any_bytes(20))
            .prop_map(|(item, cas, token)| Query::Put { item, cas, token }),
    ]
}

fn any_contacts(family: Family) -> impl Strategy<Value = Option<Vec<Contact>>> {
    let address = move |octets: [u8; 16], port: u16| match family {
        Family::Ipv4 => ([octets[0], octets[1], octets[2], octets[3]], port).into(),
        Family::Ipv6 => (octets, port).into(),
    };
    let contact =
        (any_id(), any::<[u8; 16]>(), any::<u16>()).prop_map(move |(id, octets, port)| Contact {
            id,
            address: address(octets, port),
        });
    prop::option::of(prop::collection::vec(contact, 0..9))
}

fn any_response() -> impl Strategy<Value = Response> {
    (
        any_contacts(Family::Ipv4),
        any_contacts(Family::Ipv6),
        prop::option::of(any_bytes(20)),
        prop::option::of(any_item(false)),
        prop::collection::vec(any::<([u8; 4], u16)>().prop_map(Into::into), 0..5),
        any::<Option<i64>>(),
    )
        .prop_map(|(nodes, nodes6, token, item, values, seq)| {
            let seq = item.as_ref().and_then(Item::seq).or(seq);
            let many = Vec::new();
            Response {
                nodes,
                nodes6,
                values,
                token,
                item,
                seq,
                many,
                ..Response::default()
            }
        })
}

fn any_response_to_many() -> impl Strategy<Value = Response> {
    (
        any_response(),
        prop::collection::vec(any_response(), 0..4),
        any::<Option<i64>>(),
        prop::collection::vec(any_bytes(30), 0..4),
        prop::option::of(any_bytes(40)),
    )
        .prop_map(|(response, many, entry_count, entries, next)| Response {
            many,
            entry_count,
            entries,
            next,
            ..response
        })
}

fn any_message() -> impl Strategy<Value = Message> {
    let kind = prop_oneof![
        (any_id(), any::<bool>(), any_query()).prop_map(|(sender, read_only, query)| Kind::Query {
            sender,
            read_only,
            query
        }),
        (any_id(), any_response_to_many()).prop_map(|(sender, response)| Kind::Response {
            sender,
            external: None,
            response: Box::new(response),
        }),
        (any::<i64>(), "[a-z ]{0,20}").prop_map(|(code, message)| {
            Kind::Error(QueryError::new(ErrorCode::from_number(code), message))
        }),
    ];
    (any_bytes(20), prop::option::of(any_bytes(5)), kind).prop_map(
        |(transaction, version, kind)| Message {
            extension: Some(1),
            transaction,
            version,
            kind,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in any_message()) {
        let datagram = message.encode().datagram(0);
        prop_assert_eq!(Message::decode(&datagram), Ok(message));
    }

    /// Datagrams that were cut, changed or put together: read or refused, never a panic.
    #[test]
    fn damaged_datagrams_do_no_harm(
        message in any_message(),
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut datagram = message.encode().datagram(0).to_vec();
        for (at, octet) in changes {
            let at = at.index(datagram.len());
            datagram[at] = octet;
        }
        let _ = Message::decode(&Bytes::from(datagram.clone()));
        datagram.truncate(cut.index(datagram.len()));
        prop_assert!(Message::decode(&Bytes::from(datagram)).is_err());
    }
}

#[test]
fn the_longest_messages_fit() {
    let mut value = b"996:".to_vec();
    value.resize(MAX_VALUE_OCTETS, b'a');
    let item = Item::sign(
        &signing_key([1; 32]),
        vec![b's'; MAX_SALT_OCTETS],
        i64::MAX,
        value,
    );
    let mut message = query(Query::Put {
        item: item.clone(),
        cas: Some(i64::MAX),
        token: vec![1; 20].into(),
    });
    message.transaction = vec![1; 16].into();
    message.version = Some("XC00".into());
    assert!(message.encode().datagram(0).len() <= MAX_ITEM_DATAGRAM_OCTETS);
    let contact = Contact {
        id: id(1),
        address: ([1; 16], 1).into(),
    };
    let mut message = response(Response {
        nodes: Some(vec![
            Contact {
                id: id(1),
                address: ([1; 4], 1).into()
            };
            8
        ]),
        nodes6: Some(vec![contact; 8]),
        token: Some(vec![1; 8].into()),
        ..Response::default()
    });
    message.transaction = vec![1; 16].into();
    assert!(message.encode().datagram(0).len() <= MAX_DATAGRAM_OCTETS);
}
