{{ engagement(by=['partner_id']) }}
