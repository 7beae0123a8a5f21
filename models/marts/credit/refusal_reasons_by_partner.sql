{{ refusal_reasons(by=['partner_id']) }}
