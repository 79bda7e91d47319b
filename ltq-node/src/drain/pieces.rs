//! What goes to a node at a time.

use std::collections::VecDeque;

use ltq_core::Message;

/// Messages with their offsets, in pieces.
pub(super) type Piece = Vec<(u64, Message)>;

/// Cuts messages into pieces of at most [`PIECE_BYTES`], or of one message.
pub(super) fn pieces(messages: Piece) -> VecDeque<Piece> {
    let mut pieces: VecDeque<Piece> = VecDeque::new();
    let mut bytes = PIECE_BYTES;
    for (offset, message) in messages {
        let of_it = message.encoded_len_max();
        bytes += of_it;
        match pieces.back_mut() {
            Some(piece) if bytes <= PIECE_BYTES => piece.push((offset, message)),
            _ => {
                bytes = of_it;
                pieces.push_back(vec![(offset, message)]);
            }
        }
    }
    pieces
}

/// What one publish holds, encoded: what may be twice when a node is given up.
pub(super) const PIECE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_the_order_and_are_no_larger_than_they_may_be() {
        let beside = Message::default().encoded_len_max();
        let body = |bytes: usize| Message::new(vec![0; bytes.saturating_sub(beside)]);
        let sizes = [20, PIECE_BYTES - 20, 20, PIECE_BYTES + 1, PIECE_BYTES / 2, PIECE_BYTES / 2];
        let mut messages: Vec<_> = sizes.into_iter().map(body).collect();
        // What stands beside the body counts as well.
        let header = vec![0; PIECE_BYTES * 2 / 3];
        messages.push(Message::default().with_header("h", header.clone()));
        messages.push(Message::default().with_header("h", header.clone()));
        messages.push(Message::default().with_key(header));
        let pieces = pieces((0..).zip(messages).collect());
        let offsets = |piece: &Vec<(u64, Message)>| piece.iter().map(|it| it.0).collect::<Vec<_>>();
        let cut: Vec<_> = pieces.iter().map(offsets).collect();
        let each = [vec![0, 1], vec![2], vec![3], vec![4, 5], vec![6], vec![7], vec![8]];
        assert_eq!(cut, each);
    }
}
